"""After how many rollouts a surrogate has paid for its training, against the same physics at equal error.

The rival is not the physics as the run used it. A user who can live with the surrogate's error may run the physics on a
coarser grid and with longer internal steps, and interpolate; the cheapest one of these that errs no more than the
surrogate is what each rollout is saved from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast

import attrs
import torch
from torch import Tensor

from hyco_engine.data.contracts import Trajectory
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.form import DataForm
from hyco_engine.data.regrid import coarser, regridded
from hyco_engine.errors import DataError, HycoError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.within import internal_steps
from hyco_engine.report.page import REPORT, write_report
from hyco_engine.report.pay_words import pay_sentences
from hyco_engine.runs.costs import write_costs
from hyco_engine.runs.loading import LoadedRun, Which
from hyco_engine.runs.metrics import read_summary
from hyco_engine.threads import own_threads
from hyco_engine.training.evaluation import model_rollout, persistence, rollout_errors

FACTORS = (1, 2, 4, 8)
"""So many times fewer cells along each axis."""
GROWN = 10.0
"""A rollout that exceeds the data by this factor is on its way out of all bounds."""
MOST_TOGETHER = 64
"""The most rollouts in a batch."""
REPEATS, LEAST_SECONDS, MOST_SECONDS = 3, 0.05, 5.0
"""A time is the least of so many: more where they take little time together, fewer where they take long."""

Predict = Callable[[Tensor, int], Tensor]


def costs(
    run_dir: Path | str,
    split: Literal["val", "test"] = "test",
    *,
    which: Which = "final",
    registry: Registry | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure what rollouts over the held-out data cost and err, by the surrogate and by the physics on several grids.

    Returns `training_s`, `surrogate`, `physics` (a row for each grid and number of internal steps), `persistence`, and
    `pays_after`: the numbers of rollouts one by one (`single`) and in batches (`batch`), 0 where no physics errs as
    little, None for never. `sentences` say it. Raises DataError where the run lacks a model or held-out rollouts.
    """
    run = LoadedRun(run_dir, registry, overrides=overrides)
    with own_threads(run.spec.run.threads):
        found = _Costs.of(run, split, which).found()
    found |= won_back(found)
    return {"run": str(run_dir), "split": split, "weights": which, **found, "sentences": pay_sentences(found)}


def won_back(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rivals`, the cheapest physics that err no more than the surrogate, and `pays_after`; see `costs`."""
    own, rivals, after = found["surrogate"], {}, {}
    as_good = [row for row in found["physics"] if row["error"] <= own["error"]]
    for name, key in (("single", "seconds"), ("batch", "seconds_in_batch")):
        rival = min(as_good, key=itemgetter(key), default=None)
        saved = math.inf if rival is None else rival[key] - own[key]
        # "nothing changes" costs nothing
        pays = saved > 0 and own["error"] < found["persistence"]
        rivals[name], after[name] = rival, math.ceil(found["training_s"] / saved) if pays else None
    return {"rivals": rivals, "pays_after": after}


def keep_costs(
    run_dir: Path, split: Literal["val", "test"] = "test", *, registry: Registry | None = None
) -> dict[str, Any]:
    """Measure `costs` of a run, write them into its folder, and show them in its report."""
    found = costs(run_dir, split, registry=registry)
    write_costs(run_dir, found)
    if (run_dir / REPORT).is_file():
        write_report(run_dir)
    return found


@attrs.frozen(kw_only=True, eq=False)
class _Costs:
    """The models of a run, and held-out simulations of equal length."""

    run: LoadedRun
    form: DataForm
    physics: PhysicalModel
    surrogate: Predict
    trajectories: tuple[Trajectory, ...]
    measure: str
    floor: float
    training_s: float

    @classmethod
    def of(cls, run: LoadedRun, split: Literal["val", "test"], which: Which) -> _Costs:
        summary = read_summary(run.folder)
        surrogate, weights = run.model_and_weights("synthetic", which)
        physics = cast("PhysicalModel", run.model("physical", which))
        task = run.assembler.task(writes=False)
        run.read(task)
        task.check_fit(weights.form, "synthetic")
        known = task.rollouts(split)
        if not known or weights.layout is None:
            raise DataError(f"there are no rollouts on the {split} data to compare costs with: name another --split")
        longest = max(len(t.dynamic) for t in known)
        alike = [t for t in known if len(t.dynamic) == longest][:MOST_TOGETHER]
        n_dynamic = weights.layout.n_dynamic
        held = rollout_errors(lambda state, steps: persistence(state, steps, n_dynamic), alike, weights.layout)
        # as verdicts compare models: nrmse where the truth has no spread
        measure = "nrmse" if held["vrmse"] is None else "vrmse"
        phases = (summary.get("timings") or {}).get("phases") or {}
        return cls(
            run=run,
            form=weights.form,
            physics=physics,
            surrogate=model_rollout(surrogate),
            trajectories=tuple(alike),
            measure=measure,
            floor=float(held[measure]),
            # what the physics generated is what the surrogate trained on
            training_s=float((phases.get("train_synthetic") or 0.0) + (phases.get("generate_physical") or 0.0)),
        )

    def found(self) -> dict[str, Any]:
        """Return all of `costs` that is measured."""
        return {
            "steps": len(self.trajectories[0].dynamic) - 1,
            "batch": len(self.trajectories),
            "measure": self.measure,
            "training_s": self.training_s,
            "surrogate": self._measured(self.surrogate),
            "physics": [{**told, **self._measured(predict)} for told, predict in self._rivals()],
            "persistence": self.floor,
        }

    def _measured(self, predict: Predict) -> dict[str, Any]:
        layout = self.form.layout
        assert layout is not None
        error = rollout_errors(predict, self.trajectories, layout, self.run.assembler.device)[self.measure]
        states = torch.stack([torch.cat([t.dynamic[0], t.static]) for t in self.trajectories])
        states, steps = states.to(self.run.assembler.device), len(self.trajectories[0].dynamic) - 1
        return {
            "error": math.inf if error is None or not math.isfinite(error) else float(error),
            "seconds": _seconds(predict, states[:1], steps),
            "seconds_in_batch": _seconds(predict, states, steps) / len(states),
        }

    def _rivals(self) -> Iterator[tuple[dict[str, Any], Predict]]:
        """Yield the physics on its own grid and on coarser ones, each with fewer and fewer internal steps."""
        layout = self.form.layout
        assert layout is not None
        fields = any(self.physics.learnables.is_field(name) for name in self.physics.learnables.names)
        for factor in FACTORS:
            # a parameter with a value for each cell belongs to its own grid
            other = layout if factor == 1 else None if fields else coarser(layout, factor)
            if other is None:
                continue
            model: PhysicalModel | None = self.physics if factor == 1 else self._built(other, None)
            while model is not None:
                told = {"resolution": list(other.grid.resolution), "internal_steps": internal_steps(model)}
                yield told, _on_grid(model, layout, other)
                steps = internal_steps(model) // 2
                model = self._built(other, steps) if steps else None
                if model is not None and not self._stable(_on_grid(model, layout, other)):
                    break

    def _built(self, layout: StateLayout, steps: int | None) -> PhysicalModel | None:
        """Build the physics with the parameters that were found, on another layout or with other internal steps."""
        assert self.form.dt is not None
        dt = None if steps is None else self.form.dt / steps
        try:
            model = self.run.assembler.physics_on(self.form, layout, dt)
            model.learnables.load_state_dict(self.physics.learnables.state_dict())
        except HycoError:
            # a physics may refuse a grid or a step
            return None
        if steps is None:
            model.settle_steps()
        return model.eval() if steps is None or internal_steps(model) == steps else None

    def _stable(self, predict: Predict) -> bool:
        trajectory = self.trajectories[0]
        state = torch.cat([trajectory.dynamic[0], trajectory.static])[None].to(self.run.assembler.device)
        path = predict(state, len(trajectory.dynamic) - 1)
        most = GROWN * float(trajectory.dynamic.nan_to_num().abs().max())
        return bool(path.isfinite().all()) and float(path.abs().max()) < most


def _on_grid(model: PhysicalModel, own: StateLayout, other: StateLayout) -> Predict:
    roll_out = model_rollout(model)
    if other is own:
        return roll_out

    def predict(state: Tensor, steps: int) -> Tensor:
        path = roll_out(regridded(state, own.fields, own, other), steps)
        fine = regridded(path.flatten(0, 1), own.dynamic, other, own)
        return fine.view(len(state), steps, *fine.shape[1:])

    return predict


def _seconds(predict: Predict, states: Tensor, steps: int) -> float:
    """Return the least seconds that rollouts took, after one that may compile something."""
    predict(states, steps)
    spent: list[float] = []
    while not spent or (sum(spent) < MOST_SECONDS and (len(spent) < REPEATS or sum(spent) < LEAST_SECONDS)):
        _wait(states)
        begun = time.perf_counter()
        predict(states, steps)
        _wait(states)
        spent.append(time.perf_counter() - begun)
    return min(spent)


def _wait(states: Tensor) -> None:
    """Wait until the device has computed what it was given."""
    if states.device.type == "cuda":
        torch.cuda.synchronize(states.device)
