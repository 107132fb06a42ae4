"""The source `simulate`."""

from __future__ import annotations

import attrs
import pytest
import torch
from data_cases import scalar
from messages import error_naming

import hyco_engine as hyco
from hyco_engine.builtin.sources import hyco_sources
from hyco_engine.builtin.sources.options import SimulateOptions
from hyco_engine.builtin.sources.simulate import SimulateSource
from hyco_engine.data.settings import BoundarySetting
from hyco_engine.errors import DataError, HycoError, PluginError, SpecError
from hyco_engine.hooks.records import ModelRecord
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, PhysicalModel, TrajectorySource
from hyco_engine.physics.parameters import Learnables, ParameterDeclaration
from hyco_engine.physics.settings import ParameterSetting, PhysicalChoice, Profile
from hyco_engine.spec.options import option, options

pytestmark = pytest.mark.usefixtures("measured")


@options
class DecayOptions:
    explode: bool = option(False, help="leave the numbers' range after some steps")
    twins: bool = option(False, help="every initial state is the same")


class Decay(PhysicalModel):
    """u <- u exp(-(rate + 0 * drift) dt) + 0 * c, with a static field c."""

    def __init__(self, options: DecayOptions, context: BuildContext) -> None:
        super().__init__()
        grid = context.layout.grid if context.layout else context.grid
        self.options = options
        self.layout = context.layout_for([scalar("u", grid.axes)], [scalar("c", grid.axes)])
        self.dt = context.dt
        if context.inner_dt is not None and context.inner_dt > context.dt:
            raise SpecError("the internal step is longer than a frame", key="physical.dt")
        declarations = [
            ParameterDeclaration(name="rate", init=0.5, bounds=(0.0, 10.0), may_be_field=True),
            ParameterDeclaration(name="drift", init=0.25),
            ParameterDeclaration(name="boost", init=1.0, optional=True),
        ]
        self.learnables = Learnables(declarations, context.parameters, grid, context.dtype)
        self.calls = []

    def forward(self, state):
        self.calls.append(state.shape[0])
        assert state.dtype == torch.float64
        new = state[:, :1] * torch.exp(-self.dt * self.learnables.values()["rate"])
        return new * 1e200 if self.options.explode else new

    def initial_states(self, count, generator):
        if self.options.twins:
            return torch.ones(count, 2, *self.layout.spatial)
        return torch.rand(count, 2, *self.layout.spatial, generator=generator, dtype=torch.float64)


def make_context(**keys):
    registry = Registry()
    record = ModelRecord(kind="decay", summary="decay", options=DecayOptions, factory=Decay, role="physical")
    registry.register(record, distribution="tests", version="1", hook="hyco_models")
    keys.setdefault("physical", PhysicalChoice(kind="decay", options=DecayOptions()))
    return BuildContext(seed=3, registry=registry, **keys)


def make_options(**keys):
    keys.setdefault("truth", {"rate": 2.0, "drift": 0.0})
    return SimulateOptions(**{"resolution": {"x": 4}, "dt": 0.1, "num_simulations": 5, **keys})


def simulated(context=None, **keys):
    return SimulateSource(make_options(**keys), context or make_context(num_frames=4))


def test_records_are_light_and_build_sources(tmp_path):
    records = {record.kind: record for record in hyco_sources()}
    assert sorted(records) == ["arrays", "pdebench", "points", "scene", "simulate", "well"]
    assert isinstance(records["simulate"].factory(make_options(), make_context()), TrajectorySource)


def test_it_runs_the_true_physics():
    source = simulated()
    trajectory = source.load(1)
    assert source.num_simulations == 5
    assert source.frames(0) == len(trajectory.dynamic) == 4
    assert trajectory.dynamic.dtype == torch.float64
    expected = trajectory.dynamic[0] * torch.exp(-0.2 * torch.arange(4, dtype=torch.float64))[:, None, None]
    torch.testing.assert_close(trajectory.dynamic, expected)
    assert trajectory.static.shape == (1, 4)
    assert {name: float(value) for name, value in source.truth.items()} == {"rate": 2.0, "drift": 0.0}
    assert all(value.ndim == 0 and not value.requires_grad for value in source.truth.values())


def test_fifty_frames_where_nobody_says():
    assert simulated(make_context()).frames(0) == 50


def test_simulations_differ_pairwise_and_do_not_depend_on_their_number():
    many, few = simulated(num_simulations=5), simulated(num_simulations=2)
    loaded = [many.load(i) for i in range(5)]
    for i in range(5):
        for j in range(i):
            assert not torch.equal(loaded[i].dynamic[0], loaded[j].dynamic[0])
            assert not torch.equal(loaded[i].static, loaded[j].static)
    assert many.fingerprint() == few.fingerprint()
    # in another order, too
    for index in (1, 0):
        torch.testing.assert_close(few.load(index).dynamic, loaded[index].dynamic, rtol=1e-12, atol=0)


def test_simulations_run_together_and_each_is_simulated_once(monkeypatch):
    monkeypatch.setattr("hyco_engine.builtin.sources.simulate.CHUNK_SIMULATIONS", 3)
    source = simulated()
    for i in range(5):
        source.load(i)
    assert source.model.calls == [3, 3, 3, 2, 2, 2]


def test_the_first_frames_can_be_skipped():
    whole, late = (
        simulated(make_context(num_frames=6)).load(0),
        simulated(make_context(num_frames=4), skip_frames=2).load(0),
    )
    torch.testing.assert_close(late.dynamic, whole.dynamic[2:])


@pytest.mark.parametrize(
    "change",
    [
        {"truth": {"rate": 2.5, "drift": 0.0}},
        {"dt": 0.2},
        {"resolution": {"x": 5}},
        {"bounds": {"x": (0.0, 2.0)}},
        {"skip_frames": 1},
        {"boundary": BoundarySetting(0.0)},
        {"physics": PhysicalChoice(kind="decay", options=DecayOptions(explode=True))},
    ],
)
def test_the_fingerprint_follows_what_the_data_depend_on(change):
    assert simulated().fingerprint() == simulated().fingerprint()
    assert simulated().fingerprint() != simulated(**change).fingerprint()


def test_the_fingerprint_follows_seed_and_frames():
    found = {
        simulated(context).fingerprint()
        for context in (
            make_context(num_frames=4),
            make_context(num_frames=5),
            attrs.evolve(make_context(num_frames=4), seed=4),
        )
    }
    assert len(found) == 3


def test_grid_and_boundary_are_as_asked():
    walls = BoundarySetting({"x": "reflect", "y": {"lower": 0, "upper": 1.5}})
    source = simulated(resolution={"y": 3, "x": 4}, bounds={"y": (-1.0, 1.0)}, boundary=walls)
    grid = source.layout.grid
    assert (grid.axes, grid.resolution, grid.lower, grid.upper) == (("x", "y"), (4, 3), (0.0, -1.0), (1.0, 1.0))
    assert source.layout.dynamic[0].boundary.sides["y"][1].value == 1.5
    assert source.load(0).dynamic.shape == (4, 1, 4, 3)


def test_a_true_field():
    source = simulated(truth={"rate": Profile(profile="sin-squared", scale=2.0), "drift": 0.0})
    assert source.truth["rate"].shape == (4,)


def test_what_the_physics_declares_as_known_needs_no_truth():
    known = {"drift": ParameterSetting(init=7.0, learn=False), "rate": ParameterSetting(init=0.1)}
    physical = PhysicalChoice(kind="decay", options=DecayOptions(), parameters=known)
    source = simulated(make_context(physical=physical), truth={"rate": 2.0})
    assert {name: float(value) for name, value in source.truth.items()} == {"rate": 2.0, "drift": 7.0}
    assert source.model.learnables.learned == ()


def test_an_optional_parameter_is_true_where_it_is_named():
    def source(**truth):
        physical = PhysicalChoice(kind="decay", options=DecayOptions(), parameters={"boost": setting})
        return simulated(make_context(physical=physical), truth={"rate": 2.0, "drift": 0.0, **truth})

    assert "boost" not in simulated().truth
    setting = ParameterSetting(init=1.3)
    assert float(source().truth["boost"]) == 1.3
    setting = ParameterSetting(init=1.3, learn=True)
    assert float(source(boost=1.6).truth["boost"]) == 1.6
    with error_naming(SpecError, "true value of 'boost'", key="data.truth.boost"):
        source()


def test_another_physics_than_the_one_that_learns():
    true = PhysicalChoice(kind="decay", options=DecayOptions(), parameters={"drift": ParameterSetting(init=1.0)})
    context = make_context(physical=None)
    assert float(simulated(context, truth={"rate": 2.0}, physics=true).truth["drift"]) == 1.0


@pytest.mark.parametrize(
    ("context", "keys", "error", "message"),
    [
        (
            {},
            {"truth": {"rate": 2.0}},
            SpecError,
            "data.truth.drift: the data is made by 'decay', which needs the true value of 'drift'; give it, for "
            "example "
            "truth = {drift = 0.25}",
        ),
        (
            {},
            {"truth": {"rat": 2.0}},
            SpecError,
            "data.truth.rat: the physics has no parameter 'rat'; it has rate, drift, boost; did you mean 'rate'?",
        ),
        (
            {"physical": None},
            {},
            SpecError,
            "data.physics: the spec has no [physical] whose physics could make the data; name a physics here",
        ),
        (
            {},
            {"physics": PhysicalChoice(kind="decay", options=DecayOptions(), dt=0.5)},
            SpecError,
            "data.physics.dt: the internal step is longer than a frame",
        ),
        (
            {},
            {"truth": {"rate": 2.0, "drift": Profile(profile="sin-squared")}},
            SpecError,
            "data.truth.drift: drift is one number in this physics and cannot be a field",
        ),
        (
            {},
            {"boundary": BoundarySetting({"y": 0.0})},
            SpecError,
            "data.boundary: the boundary names y; the axes are x",
        ),
        (
            {},
            {"physics": PhysicalChoice(kind="decay", options=DecayOptions(explode=True), dt=0.1)},
            DataError,
            "data: simulation 0 of 'decay' is no longer finite at frame 2 (t = 0.2): its scheme is unstable with an "
            "internal step of 0.1; take a smaller one, such as data.physics.dt = 0.025, or a coarser resolution",
        ),
        (
            {},
            {"physics": PhysicalChoice(kind="decay", options=DecayOptions(twins=True))},
            PluginError,
            "Decay.initial_states drew the same state for simulations 0 and 1: it must draw from the generator it is "
            "given",
        ),
    ],
)
def test_simulate_errors(context, keys, error, message):
    with pytest.raises(error) as caught:
        simulated(make_context(num_frames=4, **context), **keys).load(0)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"resolution": {"x": 0}}, "must be at least 1 along x, not 0"),
        ({"resolution": {"t": 4}}, "axes are x, y and z, not 't'"),
        ({"bounds": {"x": (1.0, 1.0)}}, "the lower bound of x must be below the upper one, not 1 and 1"),
        ({"bounds": {"x": (0.0, float("inf"))}}, "must be finite, not inf"),
        ({"bounds": {"y": (0.0, 1.0)}}, "bounds.y: bounds are given for y, which has no resolution"),
        ({"dt": 0.0}, "must be > 0, not 0.0"),
    ],
)
def test_simulate_options(keys, message):
    with pytest.raises((ValueError, HycoError)) as caught:
        make_options(**keys)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        (
            {"observe": {"noise": {"level": 0.1}}},
            "data.observe",
            "noise and masks apply to simulations of fields, but this data consists of samples",
        ),
        (
            {"split": {"by": "time"}},
            "data.split.by",
            "samples have no frames, so no split by time: their source divides them",
        ),
    ],
)
def test_samples_know_neither_noise_nor_frames(tmp_path, data, key, message):
    (tmp_path / "seen.csv").write_text("t,x,u\n0.1,0.5,1\n0.2,0.5,1\n")
    spec = {"data": {"kind": "points", "path": str(tmp_path / "seen.csv"), **data}, "synthetic": {"kind": "resnet"}}
    with pytest.raises(SpecError) as found:
        hyco.run(spec)
    assert [(problem.key, problem.message) for problem in found.value.problems] == [(key, message)]
