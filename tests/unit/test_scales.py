"""Terms of unlike size: what is asked for before a run, and that every normalizer trains once scales are declared."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.assembly import Assembler, Parts
from hyco_engine.builtin.caches.memory import Memory
from hyco_engine.builtin.normalizers.uncertainty import Uncertainty
from hyco_engine.data.fields import Boundary, FieldInfo
from hyco_engine.errors import PluginError, SpecError
from hyco_engine.hooks.hookspecs import hookimpl
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.interfaces import BuildContext, LossTerm, NormalizedLoss, StepContext, TermSpec, Tracker
from hyco_engine.spec.loading import spec_from_dict
from hyco_engine.spec.options import options
from hyco_engine.tasks.terms import scale_warning
from hyco_engine.testing.problems import Decay
from hyco_engine.training.hybrid import HybridTrainer
from hyco_engine.training.losses import WeightedSum, loss_of_size

pytestmark = pytest.mark.usefixtures("measured")

NORMALIZERS = ("manual", "running-mean", "sqrt-dim", "batch-stat", "uncertainty", "grad-norm")
SCALES = {"velocity": {"scale": "data"}, "pressure": {"scale": "data"}}


@options
class NoOptions:
    pass


class TwoDecays(Decay):
    """Velocity in m/s, of size 1, and pressure in Pa, of size 1e5; both decay."""

    def initial_states(self, count: int, generator: torch.Generator) -> Tensor:
        return super().initial_states(count, generator) * torch.tensor([1.0, 1e5])[:, None]


class ThirdParty(WeightedSum):
    """Somebody's own, as a plugin offers it."""


class FloatsOnly(WeightedSum):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> Any:
        return float(super().__call__(terms, context).total.detach())


class Nan(WeightedSum):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        loss = super().__call__(terms, context)
        return attrs.evolve(loss, weights={**loss.weights, "pressure": math.nan})


class Forgets(WeightedSum):
    def __call__(self, terms: Sequence[LossTerm], context: StepContext) -> NormalizedLoss:
        return super().__call__(terms[:1], context)


def two_decays(options: Any, context: BuildContext) -> TwoDecays:
    periodic = Boundary.parse("periodic", ("x",))
    fields = [
        FieldInfo(name="velocity", boundary=periodic, unit="m/s"),
        FieldInfo(name="pressure", boundary=periodic, unit="Pa"),
    ]
    return TwoDecays(context.layout_for(fields), context.dt or 0.1, context.parameters, context.dtype)


class Plugin:
    @hookimpl
    def hyco_models(self) -> list[Record]:
        summary = "two fields of very different units"
        return [ModelRecord(kind="two-decays", summary=summary, options=NoOptions, factory=two_decays, role="physical")]

    @hookimpl
    def hyco_normalizers(self) -> list[Record]:
        kinds = {"third-party": ThirdParty, "floats": FloatsOnly, "nan": Nan, "forgets": Forgets}
        return [
            Record(kind=kind, summary="a test", options=NoOptions, factory=lambda options, context, make=make: make())
            for kind, make in kinds.items()
        ]


def registry(disabled: Sequence[str] = ()) -> hyco.Registry:
    found = hyco.Registry.discover(disabled)
    found.register(Plugin(), distribution="hyco-engine-two", version="1.2", name="two")
    return found


SPEC: dict[str, Any] = {
    "run": {"name": "two", "cycles": 2},
    "data": {
        "kind": "simulate",
        "truth": {"k": 1.0},
        "num_simulations": 4,
        "num_frames": 8,
        "resolution": {"x": 8},
        "dt": 0.1,
        "split": {"train": "0:2", "val": "2:3", "test": "3:4"},
    },
    "physical": {"kind": "two-decays"},
    "synthetic": {"kind": "resnet", "width": 8, "blocks": 1},
    "augmentation": {"kind": "count", "alpha": 0.5},
    "training": {
        "synthetic": {"epochs_per_cycle": 8, "batch_size": 4, "lr": 1e-2},
        "physical": {"epochs_per_cycle": 8, "batch_size": 4, "optimizer": "adam", "lr": 3e-2},
    },
}


def spec(**loss: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SPEC), "loss": loss}


def parts(tables: dict[str, Any], plugins: hyco.Registry | None = None) -> tuple[Assembler, Parts]:
    """What a run is made of, without its folder and figures."""
    plugins = plugins or registry()
    assembler = Assembler(spec_from_dict(tables, plugins, {}).spec, plugins)
    task = assembler.task()
    task.read()
    return assembler, assembler.prepare(task)


def rate(made: Parts) -> float:
    physical = made.physical
    assert isinstance(physical, TwoDecays)
    return float(physical.learnables.values()["k"].detach())


class Lines(Tracker):
    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.found.append(dict(record))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- every normalizer trains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NORMALIZERS)
def test_with_scales_every_normalizer_trains_fields_of_very_different_units(kind: str) -> None:
    assembler, made = parts(spec(normalizer={"kind": kind}, terms=SCALES))
    assert assembler.notes == []
    lines = Lines()
    hybrid = HybridTrainer(**made.trainers, strategy=made.strategy, cache=Memory(), alpha=0.5, trackers=[lines])
    hybrid.train(made.task.train, 2)
    assert rate(made) == pytest.approx(1.0, rel=0.25)
    for name in ("velocity", "pressure"):
        taught = [line[f"train/loss/{name}"] for line in lines.found if line["phase"] == "train_synthetic"]
        assert taught[-1] < 0.7 * taught[0]
        assert 0.01 < lines.found[-1][f"share/{name}"] < 0.99
        assert lines.found[-1][f"weight/{name}"] > 0


@pytest.mark.parametrize("terms", [{}, SCALES])
def test_a_scale_taken_from_the_data_is_that_of_the_train_split(terms: dict[str, Any]) -> None:
    assembler, made = parts(spec(terms=terms))
    frames = torch.cat([t.dynamic for t in made.task.simulations().trajectories[:2]]).double()
    for player in ("physical", "synthetic"):
        scales = {term.name: term.scale for term in made.trainers[player].objective.specs}
        expected = {name: float(frames[:, k].var(correction=0)) for k, name in enumerate(("velocity", "pressure"))}
        assert scales == pytest.approx(expected, rel=1e-6)
    assert assembler.notes == []


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_nothing_is_asked_for_fields_whose_spread_is_their_scale() -> None:
    assert hyco.Engine(spec(), registry=registry()).plan()["notes"] == []
    (_, by_default), (_, declared) = parts(spec()), parts(spec(terms=SCALES))
    for player in ("physical", "synthetic"):
        assert by_default.trainers[player].objective.specs == declared.trainers[player].objective.specs
    _, own = parts(spec(synthetic={"terms": {"pressure": {"scale": 10.0}}}))
    scales = {term.name: term.scale for term in own.trainers["synthetic"].objective.specs}
    assert scales == {"velocity": by_default.trainers["synthetic"].objective.specs[0].scale, "pressure": 100.0}


def term(name: str, **more: Any) -> TermSpec:
    return TermSpec(name=name, **more)


@pytest.mark.parametrize(
    ("terms", "sizes", "warned"),
    [
        ([term("a"), term("b")], {"a": 1.0, "b": 9.0}, False),
        ([term("a"), term("b")], {"a": 1.0, "b": 11.0}, True),
        # a priority makes up for it
        ([term("a"), term("b", priority=1e-2)], {"a": 1.0, "b": 11.0}, False),
        ([term("a"), term("b", priority=0.0)], {"a": 1.0, "b": 11.0}, False),
        # declared for all: so it is meant
        ([term("a", scale=1.0), term("b", scale=1.0)], {"a": 1.0, "b": 11.0}, False),
        ([term("a"), term("b", scale=121.0)], {"a": 1.0, "b": 11.0}, False),
        ([term("a", kind="laplace"), term("b", kind="laplace")], {"a": 1.0, "b": 11.0}, False),
        # a field that never changes says nothing
        ([term("a"), term("b")], {"a": 0.0, "b": 11.0}, False),
        ([term("a"), term("b")], {}, False),
        ([term("a")], {"a": 1.0}, False),
    ],
)
def test_when_scales_are_asked_for(terms: list[TermSpec], sizes: dict[str, float], warned: bool) -> None:
    assert (scale_warning({"synthetic": terms}, sizes) is not None) == warned


def test_the_numbers_to_declare_are_named() -> None:
    terms = [term("class", kind="categorical"), term("a"), term("b", kind="laplace")]
    told = scale_warning({"synthetic": terms}, {"a": 0.03, "b": 15.2})
    assert told is not None
    assert "Write under [loss] terms.a = { scale = 0.03 }, terms.b = { scale = 15 }, or other sizes" in told


@pytest.mark.parametrize("kind", ["gaussian", "residual", "other", "laplace", "huber"])
@pytest.mark.parametrize("size", [0.25, 3.0])
def test_a_declared_size_is_an_error_whose_loss_counts_as_one(kind: Any, size: float) -> None:
    from hyco_engine.training.losses import _elementwise

    zero = torch.zeros(1, dtype=torch.float64)
    assert loss_of_size(kind, size) == pytest.approx(float(_elementwise(term("a", kind=kind), zero + size, zero)))


# --- learned weights under an optimizer that needs an objective that stays ------------------------------------------


def test_a_learnable_normalizer_named_for_a_model_under_lbfgs_is_refused_at_its_place(tmp_path: Path) -> None:
    tables = spec(terms=SCALES, physical={"normalizer": {"kind": "uncertainty"}})
    tables["training"]["physical"] = {"optimizer": "gauss-newton", "epochs_per_cycle": 2}
    for call in (hyco.Engine(tables, registry=registry()).plan, hyco.Engine(tables, registry=registry()).run):
        with pytest.raises(SpecError) as caught:
            call()
        (problem,) = caught.value.problems
        assert problem.key == "loss.physical.normalizer"
        assert problem.message == (
            "the normalizer 'uncertainty' of plugin 'builtin-normalizers' (hyco-engine 0.1.0) learns its weights step "
            "by step, and gauss-newton needs an objective that stays: choose another normalizer for the physical "
            'model, or optimizer = "adam"'
        )
    assert not list(Path("runs").glob("*"))


def test_for_a_shared_one_manual_stands_in_and_the_summary_says_so() -> None:
    tables = spec(terms=SCALES, normalizer={"kind": "uncertainty"})
    tables["training"]["physical"] = {"optimizer": "gauss-newton", "epochs_per_cycle": 2}
    told = (
        "the normalizer 'uncertainty' of plugin 'builtin-normalizers' (hyco-engine 0.1.0) learns its weights step by "
        "step, and gauss-newton needs an objective that stays: the physical model's terms are weighted as 'manual' "
        "does, by weight and scale alone"
    )
    assert hyco.Engine(tables, registry=registry()).plan()["notes"] == [told]
    tables["run"]["cycles"] = 0
    assert hyco.run(tables, registry=registry()).summary["warnings"] == [told]
    _, made = parts(tables)
    made.trainers["physical"].train(made.task.train, 20)
    assert rate(made) == pytest.approx(1.0, rel=1e-3)
    assert isinstance(made.trainers["synthetic"].normalization.normalizer, Uncertainty)


# --- third parties --------------------------------------------------------------------------------------------------


def test_without_the_built_in_normalizers_a_third_partys_serves() -> None:
    plugins = registry(disabled=["builtin-normalizers"])
    assert plugins.kinds("hyco_normalizers") == ("floats", "forgets", "nan", "third-party")
    found = []
    for kind, available in (("third-party", plugins), ("manual", registry())):
        _, made = parts(spec(normalizer={"kind": kind}, terms=SCALES), available)
        HybridTrainer(**made.trainers, strategy=made.strategy, cache=Memory(), alpha=0.5).train(made.task.train, 1)
        found.append(rate(made))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] != 0.5


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("floats", "returned "),
        ("nan", "returned weights that are not finite ('pressure': nan)"),
        ("forgets", "forgot the loss terms 'pressure'"),
    ],
)
def test_a_third_partys_that_breaks_the_contract_is_named_and_the_run_is_kept(kind: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        hyco.run(spec(normalizer={"kind": kind}, terms=SCALES), registry=registry(), run_dir="run")
    assert f"the normalizer '{kind}' of plugin 'two' (hyco-engine-two 1.2) {message}" in str(caught.value)
    assert '"status": "failed"' in Path("run/summary.json").read_text()
