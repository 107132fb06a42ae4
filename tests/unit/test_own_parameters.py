"""Parameters that differ between simulations: given by the data, or found for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest
import torch
from messages import error_naming
from torch import Tensor

from hyco_engine.builtin.strategies.starts import scalar_ranges, with_new_parameters
from hyco_engine.data.fields import SIMULATION, Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.scalars import beyond, own_or_found, with_scalars
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import PhysicalModel, PhysicsContext
from hyco_engine.physics.settings import ParameterSetting

REGISTRY = Registry.discover()
CELLS = 16


def layout_of(axes: str, fields: Mapping[str, str], static: Sequence[FieldInfo] = ()) -> StateLayout:
    grid = Grid(axes=tuple(axes), resolution=(CELLS,) * len(axes), lower=(0.0,) * len(axes), upper=(1.0,) * len(axes))
    boundary = Boundary.parse("periodic", tuple(axes))
    dynamic = tuple(FieldInfo(name=name, components=tuple(c), boundary=boundary) for name, c in fields.items())
    return StateLayout(grid=grid, dynamic=dynamic, static=tuple(static))


def statistics_of(states: Tensor, layout: StateLayout) -> Statistics:
    flat = states.transpose(0, 1).flatten(1).double()
    return Statistics(
        mean=flat.mean(1),
        std=flat.std(1),
        change_std=flat.std(1)[: layout.n_dynamic],
        lowest=flat.amin(1),
        highest=flat.amax(1),
    )


def physics(kind: str, layout: StateLayout, settings: Mapping[str, ParameterSetting], **more: Any) -> Any:
    record = REGISTRY.get("hyco_models", kind, "physical")
    context = PhysicsContext(
        seed=0, registry=REGISTRY, layout=layout, dt=1e-3, dtype=torch.float64, parameters=settings, **more
    )
    return REGISTRY.build("hyco_models", kind, record.options(), context, expected=PhysicalModel)


def waves(count: int, layout: StateLayout) -> Tensor:
    """Return smooth states of the dynamic fields."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, layout.n_dynamic, *layout.spatial, generator=generator, dtype=torch.float64)
    kept = torch.arange(CELLS) < 4
    for axis in range(2, x.dim()):
        shape = [-1 if k == axis else 1 for k in range(x.dim())]
        x = torch.fft.ifft(torch.fft.fft(x, dim=axis) * kept.reshape(shape), dim=axis).real
    return 0.3 * x


CASES = [
    ("burgers", "x", {"u": ""}, {"nu": (0.01, 0.05, 0.2)}),
    ("burgers", "xy", {"u": "xy"}, {"nu": (0.01, 0.05, 0.2)}),
    ("heat", "x", {"u": ""}, {"kappa": (0.01, 0.05, 0.2)}),
    ("fisher-kpp", "x", {"u": ""}, {"D": (0.01, 0.05, 0.2), "r": (1.0, 2.0, 0.5)}),
    ("kuramoto-sivashinsky", "x", {"u": ""}, {"nu": (1e-4, 2e-4, 5e-5)}),
    ("gray-scott", "xy", {"u": "", "v": ""}, {"f": (0.01, 0.05, 0.03), "k": (0.05, 0.06, 0.07)}),
    ("navier-stokes", "xy", {"u": "xy"}, {"nu": (0.01, 0.05, 0.1)}),
]


@pytest.mark.parametrize(("kind", "axes", "fields", "values"), CASES)
@pytest.mark.parametrize("way", ["eager", "graph"])
def test_each_sample_of_a_batch_steps_with_its_own_values(
    kind: str, axes: str, fields: dict[str, str], values: dict[str, tuple[float, ...]], way: Any
) -> None:
    layout = layout_of(axes, fields, [FieldInfo.uniform(name, tuple(axes)) for name in values])
    alone = attrs.evolve(layout, static=())
    states = waves(3, alone)
    full = with_scalars(states, layout, {name: torch.tensor(own, dtype=torch.float64) for name, own in values.items()})
    settings = {name: ParameterSetting(from_=name) for name in values}
    model = physics(kind, layout, settings, statistics=statistics_of(full, layout), compile=way)
    stepped = model(full)
    assert model.execution[0] == way
    for index in range(3):
        own = {name: ParameterSetting(init=numbers[index]) for name, numbers in values.items()}
        single = physics(kind, alone, own, inner_dt=model.inner_dt, compile="eager")
        expected = single(states[index : index + 1])[0]
        torch.testing.assert_close(stepped[index], expected, rtol=0, atol=1e-13)


def test_a_value_of_each_group_is_read_and_learned_where_the_state_names_the_group() -> None:
    static = [FieldInfo.uniform("nu", ("x",), by=SIMULATION), FieldInfo.index(SIMULATION, ("x",), "012")]
    layout = layout_of("x", {"u": ""}, static)
    states = waves(4, attrs.evolve(layout, static=()))
    full = with_scalars(states, layout, {"nu": 0.07})
    # samples of groups 2, 0 and 2 again, and one that holds its value
    full[:, 2] = torch.tensor([2.0, 0.0, 2.0, -1.0], dtype=torch.float64)[:, None]
    model = physics("burgers", layout, {"nu": ParameterSetting(init=0.1, scope="simulation")}, inner_dt=1e-3)
    model.learnables.set_("nu", torch.tensor([0.01, 0.02, 0.04], dtype=torch.float64))
    stepped = model(full)
    for index, nu in enumerate((0.04, 0.01, 0.04, 0.07)):
        alone = physics("burgers", attrs.evolve(layout, static=()), {"nu": ParameterSetting(init=nu)}, inner_dt=1e-3)
        torch.testing.assert_close(stepped[index], alone(states[index : index + 1])[0], rtol=0, atol=1e-13)
    gradient = torch.autograd.grad(stepped[0].square().sum(), model.learnables.raw["nu"])[0]
    assert gradient[2] != 0
    assert gradient[:2].tolist() == [0.0, 0.0]


def test_drawn_starts_have_room_for_values_and_groups() -> None:
    static = [FieldInfo.uniform("nu", ("x",), by=SIMULATION), FieldInfo.index(SIMULATION, ("x",), "012")]
    model = physics("burgers", layout_of("x", {"u": ""}, static), {"nu": ParameterSetting(scope="simulation")})
    states = model.initial_states(2, torch.Generator().manual_seed(0))
    alone = physics("burgers", layout_of("x", {"u": ""}), {}).initial_states(2, torch.Generator().manual_seed(0))
    assert torch.equal(states[:, :1], alone)
    assert states.shape == (2, 3, CELLS)


def test_internal_steps_stand_the_largest_of_all_values() -> None:
    layout = layout_of("x", {"u": ""}, [FieldInfo.uniform("nu", ("x",))])
    states = waves(2, attrs.evolve(layout, static=()))
    full = with_scalars(states, layout, {"nu": torch.tensor([0.01, 40.0], dtype=torch.float64)})
    model = physics("burgers", layout, {"nu": ParameterSetting(from_="nu")}, statistics=statistics_of(full, layout))
    alone = attrs.evolve(layout, static=())
    largest = physics("burgers", alone, {"nu": ParameterSetting(init=40.0)}, statistics=statistics_of(states, alone))
    assert model.substeps == largest.substeps > 1
    assert model.stability(full) is None
    assert "sum nu dt/dx^2" in model.stability(with_scalars(full, layout, {"nu": 400.0}))


def test_steps_follow_the_largest_value_that_was_found() -> None:
    static = [FieldInfo.uniform("nu", ("x",), by=SIMULATION), FieldInfo.index(SIMULATION, ("x",), "01")]
    model = physics("burgers", layout_of("x", {"u": ""}, static), {"nu": ParameterSetting(scope="simulation")})
    before = model.substeps
    model.learnables.set_("nu", torch.tensor([0.01, 40.0]))
    assert model.step_load() > 1
    assert model.settle_steps()
    assert model.substeps > before


def test_a_static_field_of_the_data_can_be_the_parameter() -> None:
    alone = layout_of("x", {"u": ""})
    static = FieldInfo(name="nu_of_x", boundary=Boundary.parse("periodic", ("x",)))
    layout = attrs.evolve(alone, static=(static,))
    states = waves(2, alone)
    field = 0.02 + 0.01 * torch.sin(torch.linspace(0, 6, CELLS, dtype=torch.float64)).expand(2, 1, -1)
    full = torch.cat([states, field * torch.tensor([1.0, 2.0])[:, None, None]], dim=1)
    model = physics("burgers", layout, {"nu": ParameterSetting(from_="nu_of_x")}, inner_dt=1e-3)
    stepped = model(full)
    for index in range(2):
        single = physics("burgers", alone, {"nu": ParameterSetting(init=0.02, field=True)}, inner_dt=1e-3)
        single.learnables.set_("nu", full[index, 1])
        torch.testing.assert_close(stepped[index], single(states[index : index + 1])[0], rtol=0, atol=1e-13)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_a_parameter_from_nowhere_is_refused_with_what_there_is() -> None:
    layout = layout_of("x", {"u": ""}, [FieldInfo.uniform("viscosity", ("x",))])
    with error_naming(SpecError, "'viscosty'", "viscosity", "data.scalars", key="physical.parameters.nu.from"):
        physics("burgers", layout, {"nu": ParameterSetting(from_="viscosty")})


def test_a_field_cannot_be_one_number() -> None:
    static = FieldInfo(name="map", boundary=Boundary.parse("periodic", ("x",)))
    layout = layout_of("x", {"u": ""}, [static])
    with error_naming(SpecError, "'map' is a field", "one number", key="physical.parameters.advection.from"):
        physics("burgers", layout, {"advection": ParameterSetting(from_="map")})


@pytest.mark.parametrize(
    ("keys", "at", "words"),
    [
        ({"from_": "nu", "init": 0.1}, "init", "leave this key out"),
        ({"from_": "nu", "learn": True}, "learn", "leave this key out"),
        ({"scope": "group"}, "group", "set both or none"),
        ({"group": "rig"}, "group", "set both or none"),
        ({"scope": "simulation", "field": True}, "scope", "leave field and learn out"),
        ({"scope": "simulation", "learn": False}, "scope", "leave field and learn out"),
    ],
)
def test_keys_that_contradict_each_other(keys: dict[str, Any], at: str, words: str) -> None:
    with error_naming(SpecError, words, key=at):
        ParameterSetting(**keys)


def test_one_value_for_each_simulation_needs_simulations() -> None:
    with error_naming(SpecError, "'simulation'", "nu has one value", key="physical.parameters.nu.scope"):
        physics("burgers", layout_of("x", {"u": ""}), {"nu": ParameterSetting(scope="simulation")})


# --- scalars in states ----------------------------------------------------------------------------------------------


def scalar_layout() -> StateLayout:
    static = [
        FieldInfo.uniform("known", ("x",)),
        FieldInfo.uniform("found", ("x",), by="rig"),
        FieldInfo.index("rig", ("x",), ["A", "B"]),
    ]
    return layout_of("x", {"u": "", "v": ""}, static)


def test_scalars_fill_the_channels_that_states_lack() -> None:
    layout = scalar_layout()
    bare = torch.rand(3, 2, CELLS)
    full = with_scalars(bare, layout, {"known": 0.5, "found": torch.tensor([1.0, 2.0, 3.0])})
    assert torch.equal(full[:, :2], bare)
    assert full[:, 2:, 0].tolist() == [[0.5, 1.0, -1.0], [0.5, 2.0, -1.0], [0.5, 3.0, -1.0]]
    assert torch.equal(full, full[..., :1].expand_as(full).clone().index_copy_(1, torch.arange(2), bare))
    again = with_scalars(full, layout, {"known": 0.7})
    assert again[:, 2, 0].tolist() == pytest.approx([0.7] * 3)
    assert torch.equal(full[:, 2, 0], torch.tensor([0.5] * 3)), "the given states stay as they are"


@pytest.mark.parametrize(
    ("channels", "scalars", "words"),
    [
        (2, {"known": 0.5}, ("needs the number found",)),
        (2, {"known": 0.5, "found": 1.0, "nu": 2.0}, ("takes no 'nu'", "known, found")),
        (5, {"known": 0.5, "more": 1.0}, ("takes no 'more'",)),
        (4, {"known": 0.5}, ("4 channels", "takes 5, or 2 beside known, found")),
        (2, {"known": torch.ones(2), "found": 1.0}, ("known must be one number or 3", "[2]")),
    ],
)
def test_states_without_their_scalars_are_refused(channels: int, scalars: dict[str, Any], words: Sequence[str]) -> None:
    with error_naming(DataError, *words):
        with_scalars(torch.rand(3, channels, CELLS), scalar_layout(), scalars)


def test_two_values_of_a_group_are_given_together() -> None:
    static = [FieldInfo.uniform(name, ("x",), by="rig") for name in ("a", "b")]
    layout = layout_of("x", {"u": ""}, [*static, FieldInfo.index("rig", ("x",), ["A", "B"])])
    with error_naming(DataError, "needs b too"):
        with_scalars(torch.zeros(1, 4, CELLS), layout, {"a": 1.0})


def test_the_value_of_a_group_is_taken_unless_the_state_holds_one() -> None:
    layout = scalar_layout()
    full = with_scalars(torch.rand(3, 2, CELLS), layout, {"known": 0.5, "found": 9.0})
    full[:, 4] = torch.tensor([0.0, 1.0, -1.0])[:, None]
    assert own_or_found(full, layout, "found", torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0, 9.0]


def test_a_scalar_beyond_the_training_data_is_told() -> None:
    layout = layout_of("x", {"u": ""}, [FieldInfo.uniform("nu", ("x",))])
    known = Statistics.unknown(layout, {"nu": torch.tensor([0.01, 0.1])})
    assert beyond({"nu": 0.1}, layout, known) == []
    (told,) = beyond({"nu": 0.2}, layout, known)
    assert told == "nu = 0.2 lies outside of the training data, which have 0.01 to 0.1: the surrogate extrapolates"


def test_a_layout_with_scalars_and_groups_survives_its_data() -> None:
    layout = scalar_layout()
    assert StateLayout.from_data(layout.to_data()) == layout
    assert "groups" not in layout_of("x", {"u": ""}).to_data()["dynamic"][0], "older files have no such key"


# --- new parameters -------------------------------------------------------------------------------------------------


def test_new_parameters_cover_the_range_evenly_on_a_logarithmic_scale() -> None:
    layout = layout_of("x", {"u": ""}, [FieldInfo.uniform("nu", ("x",)), FieldInfo.uniform("c", ("x",))])

    def states(indices: Tensor) -> Tensor:
        return with_scalars(torch.zeros(len(indices), 1, CELLS), layout, {"nu": 0.01, "c": 0.0})

    drawn = with_new_parameters(
        states, layout, {"nu": (0.01, 1.0), "c": (-1.0, 1.0)}, 2000, torch.Generator().manual_seed(0)
    )
    indices = torch.arange(2000)
    nu, c = drawn(indices)[:, 1:, 0].unbind(1)
    assert 0.01 <= float(nu.min()) < float(nu.max()) <= 1.0
    assert float((nu < 0.1).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert float((c < 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(drawn(indices[[7, 3]]), drawn(indices)[[7, 3]]), "a sample does not depend on its batch"


def test_the_range_of_scalars_is_that_of_the_data_or_of_what_was_found() -> None:
    layout = scalar_layout()
    rows = with_scalars(torch.zeros(4, 2, CELLS), layout, {"known": torch.tensor([3.0, 1.0, 2.0, 1.5]), "found": 0.0})

    class Rows:
        def __len__(self) -> int:
            return 4

        def inputs(self, indices: Tensor) -> Tensor:
            return rows[indices]

    class Found:
        class learnables:
            @staticmethod
            def values() -> dict[str, Tensor]:
                return {"found": torch.tensor([0.2, 0.5])}

    ranges = scalar_ranges(["known", "found"], Found(), Rows(), layout)  # type: ignore[arg-type]
    assert ranges == {"known": (1.0, 3.0), "found": (pytest.approx(0.2), 0.5)}
