"""Finished runs, to use again: their models, measured on their data or rolled out from a file's state."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hyco_engine.assembly import Assembler, Data
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.npy import read_arrays
from hyco_engine.errors import DataError, HycoError, PluginError
from hyco_engine.hooks.registry import Registry, disabled_names
from hyco_engine.interfaces import Player, Predictor, Samples, Trajectory
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.metrics import SUMMARY, read_summary
from hyco_engine.runs.seal import verify
from hyco_engine.runs.weights import Weights
from hyco_engine.spec.loading import load_spec
from hyco_engine.training.evaluation import HeldOutRollouts, model_rollout, persistence, rollout_errors
from hyco_engine.training.rollout_metrics import RolloutMetrics

log = logging.getLogger("hyco_engine")

Which = Literal["best", "final"]


class LoadedRun:
    """A run folder with its spec; models are built when asked for."""

    def __init__(
        self,
        run_dir: Path | str,
        registry: Registry | None = None,
        device: str | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        """`overrides` change keys of the run's spec, such as `data.path`, as `--set` does."""
        self.folder = Path(run_dir)
        registry = registry or Registry.discover(disabled_names())
        if not (self.folder / "spec.toml").is_file():
            raise DataError(f"{self.folder} is no run folder: there is no spec.toml in it")
        verify(self.folder, self.folder / "spec.toml")
        more = [] if device is None else [f'run.device="{device}"']
        self._loaded = load_spec(self.folder / "spec.toml", registry, [*overrides, *more])
        self.spec = self._loaded.spec
        self.assembler = Assembler(self.spec, registry)

    @property
    def status(self) -> str:
        """How the run ended: "completed", "failed" or "interrupted"; "unfinished" where it left no summary."""
        path = self.folder / SUMMARY
        return str(read_summary(self.folder).get("status")) if path.is_file() else "unfinished"

    def model(self, player: Player, which: Which = "final") -> nn.Module:
        """A trained model, in eval mode. Raises DataError where the run has none, or its weights are damaged."""
        return self._with_weights(player, which)[0]

    def weights(self, player: Player, which: Which = "final") -> Weights:
        """A model's weights file. Raises DataError where there is none, or it is damaged."""
        return Weights(self.folder / "weights" / f"{player}-{which}.safetensors")

    def _with_weights(self, player: Player, which: Which) -> tuple[nn.Module, Weights]:
        choice = getattr(self.spec, player)
        if choice is None:
            raise DataError(f"the run {self.folder} has no {player} model: its spec has no [{player}]")
        weights = self.weights(player, which)
        model = self.assembler.model(player, weights.layout, weights.dt, weights.statistics)
        try:
            model.load_state_dict(weights.state)
        except RuntimeError as error:
            raise PluginError(
                f"the weights of {self.folder} do not fit the {player} model {choice.kind!r} that is installed: {error}"
            ) from error
        return model.eval(), weights

    def evaluate(self, split: Literal["val", "test"], which: Which = "final") -> dict[str, Any]:
        """`{player: {split: metrics}}` of all models and of persistence, measured afresh on the spec's data.

        Of steppers all metrics of `RolloutMetrics`. Raises DataError where the data does not fit the models.
        """
        try:
            return self._evaluate(split, which)
        except HycoError as error:
            raise self._loaded.locate(error) from error.__cause__

    def _evaluate(self, split: Literal["val", "test"], which: Which) -> dict[str, Any]:
        cache = self.spec.paths.cache / "tensors" / self.spec.data.name
        if not cache.is_dir():
            log.warning("there is no %s here: the data is read or simulated again", cache)
        data = self.assembler.data(self.assembler.source())
        real = data.val if split == "val" else data.test
        metrics: dict[str, Any] = {}
        players: list[Player] = [p for p in ("physical", "synthetic") if getattr(self.spec, p) is not None]
        heldout = None
        for player in players:
            model, weights = self._with_weights(player, which)
            if weights.layout is not None:
                _check_fit(weights.layout, weights.dt, data, player)
            objective = self.assembler.trainer(player, model, data).objective
            heldout = self.assembler.heldout(real, data, objective)
            if heldout is None:
                raise DataError(f"the {split} split is empty; name it under data.split", key=f"data.split.{split}")
            if isinstance(heldout, HeldOutRollouts) and not isinstance(model, Predictor):
                metrics[player] = {split: self._all_metrics(model_rollout(model), real, data)}
            else:
                metrics[player] = {split: heldout.measure(model)}
        if isinstance(heldout, HeldOutRollouts) and data.layout is not None:
            floor = partial(persistence, n_dynamic=data.layout.n_dynamic)
            metrics["persistence"] = {split: self._all_metrics(floor, real, data)}
        return metrics

    def _all_metrics(
        self, predict: Callable[[Tensor, int], Tensor], real: Sequence[Trajectory] | Samples, data: Data
    ) -> dict[str, Any]:
        assert not isinstance(real, Samples)
        assert data.layout is not None
        more = RolloutMetrics(data.layout, max(len(trajectory.dynamic) for trajectory in real) - 1)
        errors = rollout_errors(predict, real, data.layout, self.assembler.device, more.add)
        return errors | {name: value for name, value in more.results().items() if name not in errors}

    def predict(self, source: Path, out: Path, steps: int, player: Player, which: Which = "final") -> dict[str, Any]:
        """Roll a model out from the state in `source`, for `steps` steps, into `out`; see `predict`."""
        model, weights = self._with_weights(player, which)
        if weights.layout is None:
            raise DataError(f"the {player} model of {self.folder} does not step states of fields forward")
        device = self.assembler.device
        state = _read_state(source, weights.layout, self.assembler.dtype)
        single = state.ndim == weights.layout.n_axes + 1
        states = (state[None] if single else state).to(device)
        rollout = model_rollout(model)(states, steps).cpu()
        if not torch.isfinite(rollout).all():
            first = int((~torch.isfinite(rollout)).nonzero()[0][1]) + 1
            raise DataError(f"the {player} model diverges from this state: step {first} of {steps} is not finite")
        rollout = rollout[0] if single else rollout
        _write(out, rollout, weights.layout)
        return {"model": player, "steps": steps, "shape": list(rollout.shape), "dt": weights.dt, "out": str(out)}


def load_surrogate(
    run_dir: Path | str, which: Which = "final", *, registry: Registry | None = None, device: str | None = None
) -> nn.Module:
    """A run's surrogate: `model(state [B, C_all, *S]) -> [B, C_dyn, *S]`, one step of the data's dt, scaling inside.

    `run_dir` may also be a file that `hyco-engine export --format safetensors` wrote.
    """
    if Path(run_dir).is_file():
        from hyco_engine.runs.export import load_exported

        return load_exported(Path(run_dir), registry, device)
    return LoadedRun(run_dir, registry, device).model("synthetic", which)


def load_physics(
    run_dir: Path | str, which: Which = "final", *, registry: Registry | None = None, device: str | None = None
) -> nn.Module:
    """A run's physical model with the parameters that were found."""
    return LoadedRun(run_dir, registry, device).model("physical", which)


def evaluate(
    run_dir: Path | str,
    split: Literal["val", "test"],
    registry: Registry | None = None,
    *,
    which: Which = "final",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """What `hyco-engine evaluate` prints. `overrides` may name other data: `data.path="other.npz"`."""
    run = LoadedRun(run_dir, registry, overrides=overrides)
    found = {"run": str(run_dir), "split": split, "weights": which, "status": run.status}
    metrics = run.evaluate(split, which)
    players: tuple[Player, ...] = ("physical", "synthetic")
    dt = next((run.weights(player, which).dt for player in players if player in metrics), None)
    return {**found, "dt": dt, "metrics": metrics}


def predict(
    run_dir: Path | str,
    source: Path,
    out: Path,
    steps: int,
    model: Player | None = None,
    registry: Registry | None = None,
    which: Which = "final",
) -> dict[str, Any]:
    """Roll out a run's model from the state in `source` and write the predictions to `out`.

    `model` None: the surrogate, or the physics of a run that has none.

    `.npy` holds channels in the order of the layout: `[C_all, *S]` or `[B, C_all, *S]` in, `[steps, C_dyn, *S]` or
    `[B, steps, C_dyn, *S]` out. `.npz` holds one array a field, `[*S]` or `[C, *S]`, by name.
    """
    run = LoadedRun(run_dir, registry)
    default: Player = "physical" if run.spec.synthetic is None else "synthetic"
    return run.predict(source, out, steps, model or default, which)


def _check_fit(layout: StateLayout, dt: float | None, data: Data, player: Player) -> None:
    """Raises DataError where a model was trained on states of another form, grid or time step."""
    assert data.layout is not None or dt is None
    there = "no fields" if data.layout is None else _described(data.layout)
    if data.layout is None or _described(layout) != there:
        raise DataError(f"the {player} model steps {_described(layout)}; this data has {there}", key="data")
    if dt is not None and data.dt is not None and not math.isclose(dt, data.dt, rel_tol=1e-6):
        raise DataError(
            f"the {player} model steps by {dt:g}; the frames of this data are {data.dt:g} apart", key="data"
        )


def _described(layout: StateLayout) -> str:
    fields = ", ".join(f"{f.name} ({f.channels}, {f.sampling})" for f in layout.fields)
    grid = layout.grid
    sides = zip(grid.axes, grid.resolution, grid.lower, grid.upper, strict=True)
    return (
        f"the fields {fields} on {', '.join(f'{n} cells along {a} in [{lo:.6g}, {up:.6g}]' for a, n, lo, up in sides)}"
    )


def _read_state(path: Path, layout: StateLayout, dtype: torch.dtype) -> Tensor:
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"{path} is no .npy or .npz file")
    array = _read_arrays(path, layout)
    spatial = layout.spatial
    wanted = f"[{layout.n_all}, {', '.join(map(str, spatial))}]"
    if array.shape == spatial and layout.n_all == 1:
        array = array[None]
    if array.shape[-layout.n_axes - 1 :] != (layout.n_all, *spatial) or array.ndim > layout.n_axes + 2:
        shape = list(array.shape)
        raise DataError(f"the state in {path} has the shape {shape}; wanted is {wanted}, or a batch of it")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(f"the state in {path} holds values that are no finite numbers")
    return torch.as_tensor(np.ascontiguousarray(array)).to(dtype)


def _read_arrays(path: Path, layout: StateLayout) -> NDArray[Any]:
    try:
        content = read_arrays(path)
        return content if isinstance(content, np.ndarray) else _stacked(content, layout, path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _stacked(arrays: Mapping[str, NDArray[Any]], layout: StateLayout, path: Path) -> NDArray[Any]:
    names = [field.name for field in layout.fields]
    if set(arrays) != set(names):
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; the model's fields are {', '.join(names)}")
    axis = -layout.n_axes - 1
    parts = []
    for field in layout.fields:
        array = arrays[field.name]
        scalar = not field.components and array.ndim == layout.n_axes
        parts.append(np.expand_dims(array, axis) if scalar else array)
    return np.concatenate(parts, axis=axis)


def _write(path: Path, rollout: Tensor, layout: StateLayout) -> None:
    buffer = io.BytesIO()
    array = rollout.numpy()
    if path.suffix == ".npz":
        axis = rollout.ndim - layout.n_axes - 1
        fields = {f.name: array.take(range(*_range(layout, f.name)), axis) for f in layout.dynamic}
        np.savez(buffer, **fields)  # type: ignore[arg-type]  # the stubs take any keyword for allow_pickle
    elif path.suffix == ".npy":
        np.save(buffer, array, allow_pickle=False)
    else:
        raise DataError(f"{path} is no .npy or .npz file: name one to write to")
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent} to write {path.name} to")
    write_atomic(path, buffer.getvalue())


def _range(layout: StateLayout, name: str) -> tuple[int, int]:
    channels = layout.channels(name)
    return channels.start, channels.stop
