"""Training that is stopped after any step and gone on with by other objects is the same training, to the last bit."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.caches.on_the_fly import OnTheFly
from hyco_engine.builtin.normalizers.options import (
    BatchStatOptions,
    GradNormOptions,
    RunningMeanOptions,
    UncertaintyOptions,
)
from hyco_engine.builtin.strategies.count import Count
from hyco_engine.errors import RunError
from hyco_engine.interfaces import (
    Augmentation,
    BuildContext,
    CycleContext,
    ExtraTerm,
    LossNormalizer,
    LossTerm,
    Phase,
    TermSpec,
    Tracker,
)
from hyco_engine.runs.checkpoint import Checkpoints
from hyco_engine.testing.problems import Decay, decay_layout, decay_trajectories, decay_windows
from hyco_engine.training.cycle import REST
from hyco_engine.training.evaluation import HeldOutRollouts
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.solver.lbfgs import LBFGSState
from hyco_engine.training.state import TrainingState
from hyco_engine.training.trainer import Trainer
from hyco_engine.training.unknowns import Unknowns


def train(trained: HybridTrainer, cycles: int, store: Checkpoints | None = None, moment: int | None = None) -> int:
    """Train until the n-th moment at which training can go on, save the state there, and stop; None: to the end."""
    seen = 0
    with closing(trained.events(decay_windows(), cycles, trained.tell)) as events:
        for event in events:
            trained.tell(event)
            seen += event.kind == REST
            if event.kind == REST and seen == moment:
                assert store is not None
                store.save({"training": trained.state_dict()})
                break
    return seen


class Noisy(nn.Module):
    """A surrogate whose training draws random numbers in its layers, and which has a buffer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(8, generator=generator))
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, state: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.dropout(state[:, :1] * self.weight)


class Pull(ExtraTerm):
    """A loss term that draws random numbers."""

    def term(self, model: nn.Module, batch: Any, generator: torch.Generator) -> LossTerm:
        first = next(model.parameters())
        draws = torch.rand(len(batch[0]), generator=generator)
        spec = TermSpec(name="pull", kind="residual")
        return LossTerm(spec=spec, per_sample=1e-2 * draws * first.square().sum())


class Measuring(Count):
    """Weighs by what both models' errors are at the start of the phase, and by what the pupil says."""

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        errors = context.errors()
        plain = super().augment(phase, context)
        assert plain is not None
        weight = 0.5 + 0.1 * errors[phase.player] / (errors[phase.player] + errors[phase.teacher])
        weight += 1e-3 * float(next(context.models[phase.player].parameters()).detach().sum())
        return Augmentation(
            recipe=plain.recipe, weight=weight, expected_ratio=weight * 0.5, terms=(Pull(),), record={"tau": weight}
        )


class Astray(ExtraTerm):
    """A loss term that leads away from the data."""

    def term(self, model: nn.Module, batch: Any, generator: torch.Generator) -> LossTerm:
        # k starts below the truth, and the surrogate's weights above it
        wrong = -5 if isinstance(model, Decay) else 5
        away = 10 * (next(model.parameters()) - wrong).square().sum()
        draws = torch.rand(len(batch[0]), generator=generator)
        return LossTerm(spec=TermSpec(name="astray", priority=100.0), per_sample=(1 + draws) * away)


class Proposing(Measuring):
    """Proposes what is kept in the first cycle, and undone in the second one."""

    proposes = True

    def augment(self, phase: Phase, context: CycleContext) -> Augmentation | None:
        found = super().augment(phase, context)
        assert found is not None
        return attrs.evolve(found, terms=(Astray(),)) if context.cycle else found


class Seen(Tracker):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def metrics(self, record: Any) -> None:
        self.lines.append(dict(record))


def normalizer(name: str) -> LossNormalizer | None:
    from hyco_engine.builtin.normalizers import batch_stat, grad_norm, running_mean, uncertainty

    context = BuildContext(seed=0, registry=None)  # type: ignore[arg-type]
    made = {
        "running-mean": lambda: running_mean.build(RunningMeanOptions(), context),
        "uncertainty": lambda: uncertainty.build(UncertaintyOptions(), context),
        "batch-stat": lambda: batch_stat.build(BatchStatOptions(), context),
        "grad-norm": lambda: grad_norm.build(GradNormOptions(), context),
    }
    return made[name]() if name in made else None


def hybrid(
    seen: Seen, *, optimizer: str, balance: str = "", cache: Any = None, strategy: Any = None, **more: Any
) -> HybridTrainer:
    layout = decay_layout()
    settings = {
        "physical": TrainingSettings(epochs_per_cycle=3, batch_size=8, optimizer=optimizer, lr=0.05, **more),
        "synthetic": TrainingSettings(epochs_per_cycle=2, batch_size=8, optimizer="adamw", schedule="cosine", lr=0.01),
    }
    models = {"physical": Decay(layout), "synthetic": Noisy()}
    trainers = {
        player: Trainer(
            model,
            player=player,
            layout=layout,
            settings=settings[player],
            normalizer=normalizer(balance),
            total_epochs=9,
        )
        for player, model in models.items()
    }
    return HybridTrainer(
        **trainers,
        strategy=strategy or Count(),
        cache=cache or Memory(),
        alpha=0.5,
        heldout=HeldOutRollouts(decay_trajectories(1), layout),
        trackers=[seen],
    )


def outcome(trained: HybridTrainer, lines: list[dict[str, Any]]) -> dict[str, Any]:
    state = trained.state_dict()
    state["history"].pop("seconds")
    return {"lines": lines, **state}


def same(one: Any, other: Any, path: str = "") -> None:
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other) or (one != one).any(), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for k, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{path}/{k}")
    else:
        assert one == other, path


CASES = {
    "adam": {"optimizer": "adam"},
    "lbfgs": {"optimizer": "lbfgs"},
    "gauss-newton": {"optimizer": "gauss-newton"},
    "starts": {"optimizer": "gauss-newton", "starts": 3},
    **{f"curriculum, {name}": {"optimizer": name, "curriculum": ((1, 2), (2, 2))} for name in ("adam", "lbfgs")},
    "initial": {"optimizer": "lbfgs", "initial_states": "learned", "strategy": Measuring(), "curriculum": ((1, 2),)},
    **{f"{name}, proposing": {"optimizer": name, "strategy": Proposing()} for name in ("adam", "lbfgs")},
    "running-mean, proposing": {"optimizer": "adam", "balance": "running-mean", "strategy": Proposing()},
    "sgd, measuring": {"optimizer": "sgd", "strategy": Measuring()},
    "lbfgs, measuring": {"optimizer": "lbfgs", "strategy": Measuring()},
    "on the fly": {"optimizer": "adam", "cache": OnTheFly()},
    "rollback": {"optimizer": "adam", "on_divergence": "rollback"},
    "running-mean": {"optimizer": "adam", "balance": "running-mean", "strategy": Measuring()},
    "uncertainty": {"optimizer": "adam", "balance": "uncertainty", "strategy": Measuring()},
    **{name: {"optimizer": "lbfgs", "balance": name} for name in ("batch-stat", "grad-norm")},
}


@pytest.mark.parametrize(
    ("case", "step"),
    [*((case, 6) for case in CASES), *(pytest.param(case, 1, marks=pytest.mark.slow) for case in CASES)],
)
def test_from_every_moment(case: str, step: int, tmp_path: Path) -> None:
    """Step 6: from every sixth moment only, each case from others."""
    all_of_it = Seen()
    whole = hybrid(all_of_it, **CASES[case])
    moments = train(whole, 2)
    assert moments > 12
    if "proposing" in case:
        assert False in [entry["accepted"] for entry in whole.history.cooperation]
    for moment in range(1 + list(CASES).index(case) % step, moments + 1, step):
        first, store = Seen(), Checkpoints(tmp_path / str(moment))
        train(hybrid(first, **CASES[case]), 2, store, moment)
        found = store.newest()
        assert found is not None
        rest = Seen()
        resumed = hybrid(rest, **CASES[case])
        resumed.load_state_dict(found.content["training"])
        train(resumed, 2 - resumed.history.cycles)
        same(outcome(whole, all_of_it.lines), outcome(resumed, first.lines + rest.lines), f"from moment {moment}: ")


def test_state_of_other_parts_is_refused(tmp_path: Path) -> None:
    state = hybrid(Seen(), optimizer="adam").state_dict()
    other = hybrid(Seen(), optimizer="adam")
    other.trainers["synthetic"].model.weight = nn.Parameter(torch.ones(3))
    with pytest.raises(RunError, match="the state does not fit the synthetic model Noisy"):
        other.load_state_dict(state)


@pytest.mark.filterwarnings("ignore:for learnables.raw.k. copying:UserWarning")
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_what_a_checkpoint_holds_goes_to_the_device_of_the_model(optimizer: str, tmp_path: Path) -> None:
    """A checkpoint's tensors are read on the CPU; the device without memory stands for a GPU."""
    store, there = Checkpoints(tmp_path), torch.device("meta")
    trained = hybrid(Seen(), optimizer=optimizer)
    # in the physics' phase, which follows that of the surrogate
    train(trained, 1, store, 9)
    found = store.newest()
    assert found is not None
    saved = found.content["training"]["trainers"]["physical"]
    assert saved["phase"] is not None
    trainer = hybrid(Seen(), optimizer=optimizer).trainers["physical"]
    state = TrainingState.load(saved, trainer.solver, Unknowns(trainer.model.to(there)), trainer.layout, there)
    assert state.phase is not None
    tensors = list(state.phase.before.values())
    if optimizer == "lbfgs":
        assert isinstance(state.solver, LBFGSState)
        (pairs,) = state.solver.optimizer.state.values()
        values = [one for value in pairs.values() for one in (value if isinstance(value, list) else [value])]
        tensors += [value for value in values if isinstance(value, Tensor)]
        assert len(tensors) > 1
    assert {tensor.device for tensor in tensors} == {there}


def test_a_model_may_name_its_weights_as_it_likes() -> None:
    class Wrapped(nn.Module):
        """A model whose state dict is that of the model within."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = Noisy()

        def forward(self, state: Tensor) -> Tensor:
            return self.inner(state)

        def state_dict(self, *args: Any, **more: Any) -> Any:
            return self.inner.state_dict(*args, **more)

        def load_state_dict(self, state: Any, *args: Any, **more: Any) -> Any:
            return self.inner.load_state_dict(state, *args, **more)

    trainer = Trainer(Wrapped(), player="synthetic", layout=decay_layout())
    assert trainer.train(decay_windows(), 1).moved


def test_which_graphs_hold_depends_on_the_first_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run meets other states and parameters when it first needs a batch of another size."""
    from hyco_engine.physics import capture

    seen: list[list[Tensor]] = []

    class Seen(capture.Reference):
        def __init__(self, step: Any, state: Tensor, parameters: Any, names: Any) -> None:
            seen.append([state.clone(), *parameters])
            super().__init__(step, state, parameters, names)

    monkeypatch.setattr(capture, "Reference", Seen)
    draws = torch.Generator().manual_seed(0)
    first = torch.randn(4, 1, 8, generator=draws)
    for value in (1.0, 2.0):
        rate = torch.tensor(1.0)
        runner = capture.StepRunner(
            lambda state, rate: state * torch.exp(-rate),
            title="a test",
            names=["rate"],
            learned=["rate"],
            others=lambda rate=rate: [rate * 1.5],
            compile="graph",
        )
        runner(first, [rate])
        rate.fill_(value)
        states = torch.randn(10, 1, 8, generator=draws)
        torch.testing.assert_close(runner(states, [rate]), states * torch.exp(-rate))
    small, large, again, other = seen
    assert torch.equal(small[0], first)
    assert torch.equal(large[0], first[torch.arange(10) % 4])
    same(large, other)
    same(small, again)
