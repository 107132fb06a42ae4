"""Physical models: what authors write, how the step is captured, and what is said when it cannot be."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from messages import error_naming
from phi.field import Field
from phi.physics import advect, diffuse
from phiml import math as phimath
from phiml.math import Solve
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.data.masks import sample_mask
from hyco_engine.errors import DataError, PluginError, RunError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext, StepExecution
from hyco_engine.physics.capture import MAX_GRAPHS, bucket, capture
from hyco_engine.physics.compiling import worth_compiling
from hyco_engine.physics.equality import CaptureError, Reference
from hyco_engine.physics.graphs import clean, count_operations
from hyco_engine.physics.model import FlowModel, FlowPhysics, TorchModel, TorchPhysics
from hyco_engine.physics.parameters import ParameterDeclaration
from hyco_engine.physics.phi_context import phi_context
from hyco_engine.physics.settings import ParameterSetting, Profile
from hyco_engine.physics.steps import divide
from hyco_engine.rollout import rollout
from hyco_engine.training.jacobian import push_forward

KAPPA = ParameterDeclaration(name="kappa", init=0.1, bounds=(0.0, math.inf), may_be_field=True)
GRID = Grid(axes=("x",), resolution=(16,), lower=(0.0,), upper=(16.0,))
GRID_2D = Grid(axes=("x", "y"), resolution=(6, 4), lower=(0.0, 0.0), upper=(6.0, 4.0))


class Heat(FlowPhysics):
    parameters = (KAPPA,)

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        return [FieldInfo(name="u", boundary=Boundary.parse("periodic", axes))], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> Mapping[str, Field]:
        return {"u": diffuse.explicit(fields["u"], parameters["kappa"], dt)}


class TorchHeat(TorchPhysics):
    parameters = (KAPPA,)
    fields = Heat.fields

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> Mapping[str, Tensor]:
        u = fields["u"]
        return {"u": u + dt * parameters["kappa"] * (u.roll(1, -1) + u.roll(-1, -1) - 2 * u)}


def context(grid: Grid | None = GRID, **changes: Any) -> BuildContext:
    values: dict[str, Any] = {"seed": 0, "registry": Registry(), "grid": grid, "dt": 0.2}
    return BuildContext(**{**values, **changes})


def states(model: Any, count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(count, model.layout.n_all, *model.layout.spatial, generator=generator, dtype=dtype)
    return torch.where(sample_mask(model.layout), state, torch.zeros((), dtype=dtype))


# --- what authors write -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_phiflow_and_torch_give_the_same(dtype: torch.dtype) -> None:
    flow, plain = FlowModel(Heat(), context(dtype=dtype)), TorchModel(TorchHeat(), context(dtype=dtype))
    state = states(flow, dtype=dtype)
    assert flow(state).dtype == dtype
    assert torch.allclose(flow(state), plain(state), rtol=0, atol=8 * torch.finfo(dtype).eps)
    for model in (flow, plain):
        model(state).square().sum().backward()
    grads = [model.learnables.raw["kappa"].grad for model in (flow, plain)]
    assert torch.allclose(*grads, rtol=1e-4 if dtype == torch.float32 else 1e-12)
    assert flow.execution[0] == plain.execution[0] == "graph"


@pytest.mark.parametrize("kind", ["eager", "graph"])
def test_every_sample_is_computed_alone(kind: Any) -> None:
    model = FlowModel(Heat(), context(compile=kind))
    state = states(model, 9)
    together = model(state)
    for count in (1, 3, 9):
        assert torch.equal(model(state[:count]), together[:count])


def test_internal_steps_divide_a_frame() -> None:
    once = FlowModel(Heat(), context(inner_dt=0.05))
    fine = FlowModel(Heat(), context(dt=0.05))
    state = states(once)
    assert once.substeps == 4
    expected = state
    for _ in range(4):
        expected = fine(expected)
    assert torch.equal(once(state), expected)


@pytest.mark.parametrize(("dt", "inner", "count"), [(0.1, 0.1 / 3, 3), (0.3, 0.1, 3), (1.0, 1.0, 1)])
def test_divide(dt: float, inner: float, count: int) -> None:
    assert divide(dt, inner) == count


@pytest.mark.parametrize("inner", [0.03, 0.7, 0.0999])
def test_steps_that_do_not_divide_a_frame(inner: float) -> None:
    with error_naming(SpecError, 0.1, inner, key="physical.dt"):
        divide(0.1, inner)


class Forced(Heat):
    """A static field that is an input."""

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        boundary = Boundary.parse("periodic", axes)
        return [FieldInfo(name="u", boundary=boundary)], [FieldInfo(name="source", boundary=boundary)]

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> Mapping[str, Field]:
        return {"u": fields["u"] + dt * parameters["kappa"] * fields["source"]}


def test_static_fields_are_carried_along() -> None:
    model = FlowModel(Forced(), context(inner_dt=0.1))
    state = states(model)
    assert state.shape[1] == 2
    assert torch.allclose(model(state), state[:, :1] + 0.2 * 0.1 * state[:, 1:])


def test_fields_by_name_whatever_the_order_of_the_data() -> None:
    axes, boundary = GRID.axes, Boundary.parse(0.0, GRID.axes)
    infos = {name: FieldInfo(name=name, boundary=boundary) for name in ("u", "source", "other")}
    layout = StateLayout(grid=GRID, dynamic=(infos["u"],), static=(infos["other"], infos["source"]))
    model = FlowModel(Forced(), context(None, layout=layout))
    state = states(model)
    assert layout.fields[0].boundary.sides[axes[0]][0].kind == "constant"
    assert torch.allclose(model(state), state[:, :1] + 0.2 * 0.1 * state[:, 2:])


class Swirl(FlowPhysics):
    """Staggered, with a learned field: advects itself, faster where `speed` is larger."""

    parameters = (ParameterDeclaration(name="speed", init=1.0, may_be_field=True),)

    def fields(self, axes: tuple[str, ...]) -> tuple[list[FieldInfo], list[FieldInfo]]:
        closed = Boundary.parse(0, axes)
        return [
            FieldInfo(name="v", components=axes, sampling="staggered", boundary=closed),
            FieldInfo(name="dye", boundary=Boundary.parse("zero-gradient", axes)),
        ], []

    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> Mapping[str, Field]:
        v, dye = fields["v"], fields["dye"]
        return {"dye": advect.semi_lagrangian(dye, v, dt) * parameters["speed"], "v": advect.semi_lagrangian(v, v, dt)}


@pytest.mark.parametrize("field", [False, True])
def test_staggered_fields_and_filler(field: bool) -> None:
    setting = ParameterSetting(init=Profile(offset=1.0), field=True) if field else ParameterSetting()
    model = FlowModel(Swirl(), context(GRID_2D, parameters={"speed": setting}))
    state = states(model)
    spoilt = state.masked_fill(~sample_mask(model.layout), math.nan)
    out = model(spoilt)
    assert model.execution[0] == "graph"
    assert torch.equal(out, model(state))
    assert torch.equal(out[:, ~sample_mask(model.layout)], torch.zeros_like(out[:, ~sample_mask(model.layout)]))


@pytest.mark.parametrize("kind", ["eager", "graph"])
def test_a_diverged_flow_stays_diverged(kind: Any) -> None:
    """torch's own sampling heals NaN velocities, and crashes the interpreter in the gradient."""
    model = FlowModel(Swirl(), context(GRID_2D, compile=kind))
    state = states(model).requires_grad_()
    spoilt = state * 1.0
    spoilt[0, 0, 2, 2] = math.nan
    out = model(spoilt)
    assert out[0].isnan().any()
    assert out[1:].isfinite().all()
    out.sum().backward()


def test_parameter_fields_continue_periodically_or_flat() -> None:
    setting = {"kappa": ParameterSetting(init=Profile(offset=0.1), field=True)}
    for boundary, expected in ((None, "periodic"), (0.0, "zero-gradient")):
        model = FlowModel(Heat(), context(parameters=setting, boundary=boundary))
        field = model._converter.parameter(model.learnables.values()["kappa"])
        assert str(field.boundary) == expected
        assert field.values.shape.sizes == (16,)


def test_what_the_context_must_hold() -> None:
    with error_naming(DataError, "time", "frames"):
        FlowModel(Heat(), context(dt=None))
    with error_naming(DataError, "grid"):
        FlowModel(Heat(), context(None))
    with error_naming(SpecError, "'kapa'", "did you mean 'kappa'"):
        FlowModel(Heat(), context(parameters={"kapa": ParameterSetting()}))
    with error_naming(DataError, "Heat"):
        FlowModel(Heat(), context()).initial_states(1, torch.Generator())


# --- steps that break their contract ------------------------------------------------------------------------------


def heat_with(step: Any, model: Any = FlowModel, base: Any = Heat, **changes: Any) -> Any:
    return model(type("Wrong", (base,), {"step": step})(), context(**changes))


@pytest.mark.parametrize("kind", ["auto", "eager", "graph"])
def test_a_learnable_that_is_not_used(kind: Any) -> None:
    outside = torch.tensor(0.1, requires_grad=True)

    def closes_over(self: Any, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] * (1 - dt * outside)}

    model = heat_with(closes_over, TorchModel, TorchHeat, compile=kind)
    with error_naming(PluginError, "Wrong", "'kappa'"):
        model(states(model))


@pytest.mark.parametrize("kind", ["auto", "eager", "graph"])
def test_a_learnable_that_nobody_declared(kind: Any) -> None:
    outside = torch.nn.Parameter(torch.ones(16))

    def closes_over(self: Any, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": fields["u"] * parameters["kappa"] * outside}

    model = heat_with(closes_over, TorchModel, TorchHeat, compile=kind)
    with error_naming(PluginError, "Wrong", (16,)):
        model(states(model))


def test_a_known_parameter_need_not_be_used() -> None:
    model = heat_with(
        lambda self, fields, parameters, dt: dict(fields), parameters={"kappa": ParameterSetting(learn=False)}
    )
    state = states(model)
    assert torch.equal(model(state), state)


@pytest.mark.parametrize(
    ("step", "returned"),
    [
        (lambda self, f, p, dt: {"v": f["u"] * p["kappa"]}, "v"),
        (lambda self, f, p, dt: f["u"] * p["kappa"], "Field"),
    ],
)
def test_wrong_results_of_phiflow_steps(step: Any, returned: str) -> None:
    model = heat_with(step)
    with error_naming(PluginError, "Wrong", "u", returned):
        model(states(model))


@pytest.mark.parametrize(
    ("step", "returned"),
    [
        (lambda self, f, p, dt: {"u": (f["u"] * p["kappa"])[..., 1:]}, (3, 1, 15)),
        (lambda self, f, p, dt: {"u": (f["u"] * p["kappa"]).double()}, "torch.float64"),
    ],
)
def test_wrong_results_of_torch_steps(step: Any, returned: object) -> None:
    model = heat_with(step, TorchModel, TorchHeat)
    with error_naming(PluginError, "Wrong", "'u'", returned):
        model(states(model))


# --- capture ------------------------------------------------------------------------------------------------------


def looks_at_values(self: Any, fields: Any, parameters: Any, dt: float) -> Any:
    u = fields["u"]
    factor = 2.0 if bool(u.max() > 0) else 1.0
    return {"u": u * parameters["kappa"] * factor}


class Implicit(Heat):
    def step(self, fields: Mapping[str, Field], parameters: Mapping[str, Any], dt: float) -> Mapping[str, Field]:
        u = fields["u"]
        return {"u": diffuse.implicit(u, parameters["kappa"], dt, solve=Solve("CG", 1e-14, 1e-14))}


def test_control_flow_on_values_falls_back_to_eager() -> None:
    model = heat_with(looks_at_values, TorchModel, TorchHeat)
    state = states(model)
    assert torch.allclose(model(state), state * 0.2)
    kind, reason = model.execution
    assert kind == "eager"
    assert reason.startswith(
        "it cannot be captured: the step depends on values, by if, while, float() or .item(), or in an iterative "
        "solver: write where(...) instead of if, and loops of fixed length (RuntimeError: "
    )


def test_an_iterative_solve_falls_back_to_eager() -> None:
    """And its gradient, which solves again, is right in float64."""
    model = FlowModel(Implicit(), context(dtype=torch.float64))
    state = states(model, dtype=torch.float64)

    def loss() -> Tensor:
        return model(state).square().sum()

    loss().backward()
    assert model.execution[0] == "eager"
    assert model.execution[1].startswith("it cannot be captured: the step solves equations with a sparse matrix, ")
    assert "step explicitly, or solve directly, as hyco_engine.physics.poisson does" in model.execution[1]
    raw = model.learnables.raw["kappa"]
    assert raw.grad is not None
    with torch.no_grad():
        raw.add_(1e-4)
        upper = float(loss())
        raw.sub_(2e-4)
        lower = float(loss())
    assert float(raw.grad) == pytest.approx((upper - lower) / 2e-4, rel=1e-7)


def test_a_graph_that_was_asked_for_and_fails() -> None:
    model = heat_with(looks_at_values, TorchModel, TorchHeat, compile="graph")
    with error_naming(RunError, "Wrong", 'compile = "graph"', 'compile = "auto"', key="physical.compile"):
        model(states(model))


class Doubled(torch.autograd.Function):
    """A gradient of its own, which a graph does not know."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def test_a_graph_with_other_gradients_is_not_used() -> None:
    def step(self: Any, fields: Any, parameters: Any, dt: float) -> Any:
        return {"u": Doubled.apply(fields["u"] * parameters["kappa"])}

    model = heat_with(step, TorchModel, TorchHeat)
    model(states(model))
    assert model.execution[0] == "eager"
    assert "the gradient by the state differs from that of the step as written" in model.execution[1]


def test_execution_tells_how_and_why() -> None:
    model = FlowModel(Heat(), context())
    assert model.execution == ("graph", "not run yet")
    model.prepare(states(model))
    assert model.graph_for(states(model)) is not None
    assert model.execution[1].startswith("captured as ")
    eager = FlowModel(Heat(), context(compile="eager"))
    eager(states(eager))
    assert eager.execution == ("eager", "asked for")


def test_graphs_are_few() -> None:
    assert [bucket(size) for size in (1, 2, 7, 8, 9, 31, 32, 33, 100)] == [1, 2, 7, 8, 10, 32, 32, 40, 112]
    model = FlowModel(Heat(), context())
    for count in range(1, 20):
        assert model(states(model, count)).shape[0] == count
    assert len(model._runner._graphs) == 13
    # the one used last stays
    model(states(model, 1))
    for count in (24, 28, 32, 40):
        model(states(model, count))
    assert len(model._runner._graphs) == MAX_GRAPHS
    assert {1, 40} < {key[0] for key in model._runner._graphs}
    assert 2 not in {key[0] for key in model._runner._graphs}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_bound_step_that_ran_without_gradients_has_them_afterwards(mode: Any) -> None:
    model = TorchModel(TorchHeat(), context())
    x, raw, step = states(model), list(model.parameters()), model.bound()
    (expected,) = torch.autograd.grad(model(x).square().sum(), raw)
    with mode():
        step(x)
    (found,) = torch.autograd.grad(step(x).square().sum(), raw)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    model = FlowModel(Heat(), context())
    state = states(model)
    with mode():
        out = model(states(model))
    assert model.execution[0] == "graph"
    assert not out.requires_grad
    assert torch.equal(out, model(state))


@pytest.mark.parametrize("captured_before", [False, True])
@pytest.mark.parametrize("physics", [(FlowModel, Heat), (TorchModel, TorchHeat)])
def test_forward_mode_and_vmap(physics: Any, captured_before: bool) -> None:
    model = physics[0](physics[1](), context(dtype=torch.float64))
    state = states(model, dtype=torch.float64)
    if captured_before:
        model(state)
    raw = model.learnables.raw["kappa"].detach()

    def out(value: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"learnables.raw.kappa": value}, (state,))

    _, tangent = push_forward(out, (raw,), (torch.ones_like(raw),))
    assert torch.allclose(tangent, (out(raw + 1e-5) - out(raw - 1e-5)) / 2e-5, atol=1e-9)
    several = torch.stack([raw, raw + 1])
    assert torch.allclose(torch.func.vmap(out)(several), torch.stack([out(raw), out(raw + 1)]))


class ProductHeat(TorchHeat):
    """The same step as a product with a matrix."""

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> Mapping[str, Tensor]:
        u = fields["u"]
        shift = torch.eye(u.shape[-1]).roll(1, -1)
        return {"u": u + dt * parameters["kappa"] * (u @ (shift + shift.T) - 2 * u)}


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_a_surrogate_in_reduced_precision_does_not_round_the_physics_that_it_corrects(compile: Any) -> None:
    model = TorchModel(ProductHeat(), context(compile=compile))
    state = states(model)
    expected = model(state)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(state), expected)


def test_models_can_be_copied() -> None:
    model = FlowModel(Heat(), context())
    state = states(model)
    expected = model(state)
    other = copy.deepcopy(model)
    model.learnables.set_("kappa", 0.4)
    assert torch.equal(other(state), expected)
    assert not torch.equal(model(state), expected)
    assert list(model.state_dict()) == ["learnables.raw.kappa"]


def test_phiml_is_left_as_it_was() -> None:
    from phiml.backend.torch import TORCH

    before = TORCH.get_default_device()
    model = FlowModel(Heat(), context(dtype=torch.float64))
    model(states(model, dtype=torch.float64))
    assert phimath.get_precision() == 32
    assert TORCH.get_default_device() is before
    assert not {"is_available", "pad", "grid_sample"} & set(vars(TORCH))


def test_phiflow_and_phiml_are_a_working_pair() -> None:
    """phiml 1.16.1 breaks advection in one dimension; PhiFlow itself sets no upper bound."""
    versions = f"phiflow {version('phiflow')} and phiml {version('phiml')} do not work together: see constraints.txt"
    state = torch.rand(1, 1, 16)
    try:
        with phi_context(state):
            u = FlowModel(Heat(), context())._converter.fields(state)["u"]
            advect.semi_lagrangian(u, u, 0.1)
    except Exception as error:
        pytest.fail(f"{versions} ({error})")


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None and which("clang++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("count", [2, 32], ids=["as given", "side by side"])
def test_inductor_compiles_the_graph(count: int) -> None:
    model = FlowModel(Heat(), context(compile="inductor"))
    state = states(model, count)
    eager = FlowModel(Heat(), context(compile="eager"))
    assert torch.allclose(model(state), eager(state), rtol=0, atol=1e-6)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.allclose(model(states(model, count)), eager(state), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(model(state).square().sum(), list(model.parameters()))
    (expected,) = torch.autograd.grad(eager(state).square().sum(), list(eager.parameters()))
    assert torch.allclose(gradient, expected, rtol=1e-5)
    loss = model(state).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert model.execution == ("inductor", model.execution[1])
    assert model.execution[1].endswith("and compiled")


KEPT = """
import torch
from torch._dynamo.utils import counters
from tests_of_kept import FlowModel, Heat, context, states
model = FlowModel(Heat(), context(compile="inductor"))
loss = model(states(model, 2)).square().sum()
(gradient,) = torch.autograd.grad(loss, list(model.parameters()))
found = counters["inductor"]
hit, miss, bypass = (found[f"fxgraph_cache_{what}"] for what in ("hit", "miss", "bypass"))
print(hit, miss, bypass, loss.item(), gradient.tolist())
"""


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None and which("clang++") is None, reason="inductor needs a C++ compiler")
def test_compiled_code_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    (tmp_path / "tests_of_kept.py").symlink_to(__file__)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path])
    told = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", KEPT],
            env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kept"), "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split(maxsplit=3)
        for _ in range(2)
    ]
    made = int(told[0][1])
    assert [int(number) for number in told[0][:3]] == [0, made, 0]
    assert [int(number) for number in told[1][:3]] == [made, 0, 0]
    assert made >= 2
    assert told[0][3] == told[1][3]


# --- what "auto" chooses ------------------------------------------------------------------------------------------


def planned(steps: int, **changes: Any) -> Any:
    """The model after its first batch, of 32, with so many planned steps."""
    model = FlowModel(Heat(), context(planned_steps=steps, **changes))
    model.prepare(states(model, 32))
    return model


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Compiling made a note of the batch size, on a machine with a compiler."""
    sizes: list[int] = []

    def compiled(graph: Any, state: Tensor, parameters: Any) -> Any:
        sizes.append(len(state))
        return graph

    monkeypatch.setattr("hyco_engine.physics.capture.compiled", compiled)
    monkeypatch.setattr("hyco_engine.physics.compiling.has_compiler", lambda: True)
    return sizes


def test_auto_compiles_where_the_planned_work_pays(compiling: list[int]) -> None:
    assert FlowModel(Heat(), context()).execution == ("graph", "not run yet")
    assert planned(0).execution[1].endswith("equal to the step as written")
    few, many = planned(10_000), planned(100_000_000)
    assert few.execution[0] == "graph"
    assert few.execution[1].endswith("; 1e+04 planned steps of a sample are too few to be worth compiling")
    assert many.execution[0] == "inductor"
    assert many.execution[1].endswith(", and compiled; 1e+08 planned steps of a sample are worth it")
    assert planned(10_000_000 // 4, inner_dt=0.05).execution == planned(10_000_000).execution
    assert set(compiling) == {32}


def test_steps_that_sample_images_are_not_compiled(compiling: list[int]) -> None:
    def step(state: Tensor, k: Tensor) -> Tensor:
        grid = torch.zeros(len(state), *state.shape[2:], 2) + k
        return torch.nn.functional.grid_sample(state, grid, align_corners=True)

    state = torch.zeros(4, 1, 8, 8)
    worth, why = worth_compiling(capture(step, state, [torch.tensor(0.1)]), state, 10**12)
    assert not worth
    assert why == "it spends most of its time on sampling images, where torch's own kernel is as fast"


@pytest.mark.parametrize(("kept", "work"), [("graph", 100_000_000), ("inductor", 10_000)])
def test_a_resumed_run_keeps_what_was_chosen_when_it_began(
    kept: StepExecution, work: int, compiling: list[int]
) -> None:
    """Though more cycles, or fewer, would now choose otherwise."""
    model = FlowModel(Heat(), context(planned_steps=work))
    model.keep_execution(kept, "of then")
    assert model.execution == (kept, "of then")
    model(states(model, 32))
    assert model.execution[0] == kept
    assert "; as when the run began, though " in model.execution[1]
    assert compiling == ([] if kept == "graph" else [32])


def test_a_resumed_run_that_agrees_tells_its_own_reason(compiling: list[int]) -> None:
    model = FlowModel(Heat(), context(planned_steps=10_000))
    model.keep_execution(*planned(10_000).execution)
    model(states(model, 32))
    assert model.execution == planned(10_000).execution


def test_what_ran_as_written_goes_on_so() -> None:
    model = FlowModel(Heat(), context())
    model.keep_execution("eager", "it cannot be captured: of then")
    model(states(model, 4))
    assert model.execution == ("eager", "it cannot be captured: of then")


def test_what_the_spec_asks_for_counts_more_than_what_was_kept() -> None:
    model = FlowModel(Heat(), context(compile="graph"))
    model.keep_execution("eager", "of then")
    model(states(model, 4))
    assert model.execution[0] == "graph"


def test_one_compiled_step_serves_all_batches(compiling: list[int]) -> None:
    model = planned(100_000_000)
    eager = FlowModel(Heat(), context(compile="eager"))
    for count in (1, 7, 32, 33, 100):
        state = states(model, count)
        assert torch.allclose(model(state), eager(state), rtol=0, atol=1e-6)
    graph, size = model.graph_for(states(model, 5))
    assert (compiling, size) == ([32], 32)
    assert graph(states(model, 32), torch.tensor(0.1)).shape == (32, 1, 16)


def test_without_a_compiler_auto_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyco_engine.physics.compiling.has_compiler", lambda: False)
    assert planned(100_000_000).execution[0] == "graph"
    assert (
        planned(100_000_000)
        .execution[1]
        .endswith("; compiling would pay, but there is no C++ compiler: install g++ or clang++")
    )


def test_a_compiler_that_fails_or_is_wrong_leaves_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*inputs: Any) -> Any:
        raise RuntimeError("cc1plus: out of memory\n and much more")

    def errs(graph: Any, *inputs: Any) -> Any:
        return lambda *given: graph(*given) * 1.0001

    monkeypatch.setattr("hyco_engine.physics.compiling.has_compiler", lambda: True)
    for compiled, why in (
        (fails, "; not compiled: inductor failed: RuntimeError: cc1plus: out of memory"),
        (errs, "; not compiled: the result differs from that of the step as written by "),
    ):
        monkeypatch.setattr("hyco_engine.physics.capture.compiled", compiled)
        model = planned(100_000_000)
        assert model.execution[0] == "graph"
        assert why in model.execution[1]
        assert model(states(model, 40)).shape[0] == 40
        asked = FlowModel(Heat(), context(compile="inductor"))
        with error_naming(RunError, 'compile = "inductor"'):
            asked(states(asked))


class Spectral(TorchPhysics):
    parameters = (KAPPA,)
    fields = Heat.fields

    def step(self, fields: Mapping[str, Tensor], parameters: Mapping[str, Tensor], dt: float) -> Mapping[str, Tensor]:
        k = torch.arange(9.0)
        return {"u": torch.fft.irfft(torch.fft.rfft(fields["u"]) * torch.exp(-dt * parameters["kappa"] * k**2), n=16)}


def test_auto_leaves_complex_numbers_to_torch(compiling: list[int]) -> None:
    model = TorchModel(Spectral(), context(planned_steps=10**9))
    model.prepare(states(model, 32))
    assert model.execution[0] == "graph"
    assert model.execution[1].endswith("; inductor cannot compile its complex numbers")
    assert compiling == []


def test_parameters_are_computed_once_in_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FlowModel(Heat(), context())
    state = states(model)
    step_by_step = model(model(model(state)))
    calls = []
    values = model.learnables.values
    monkeypatch.setattr(model.learnables, "values", lambda *raw: calls.append(raw) or values(*raw))
    assert torch.equal(rollout(model, state, 3)[:, -1], step_by_step)
    assert len(calls) == 1


# --- graphs -------------------------------------------------------------------------------------------------------


def test_cleaning_folds_merges_and_drops() -> None:
    def step(x: Tensor, k: Tensor) -> Tensor:
        constant = torch.arange(4.0).exp().sum()
        return (x * k).view(4) + (x * k).permute(0) * constant + x.expand(4) * 0 * torch.ones(4).cos().mean()

    x, k = torch.rand(4), torch.rand(())
    raw = make_fx(step)(x, k)
    before = count_operations(raw)
    graph = clean(make_fx(step)(x, k))
    assert torch.equal(graph(x, k), step(x, k))
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert len(targets) < before
    assert targets.count("aten.mul.Tensor") == 4
    assert not {"aten.arange.default", "aten.view.default", "aten.permute.default", "aten.exp.default"} & set(targets)


def test_random_numbers_stay_random() -> None:
    def step(x: Tensor) -> Tensor:
        return x + torch.rand(4) - torch.rand(4)

    graph = capture(step, torch.zeros(4), [])
    assert not torch.equal(graph(torch.zeros(4)), torch.zeros(4))
    assert not torch.equal(graph(torch.zeros(4)), graph(torch.zeros(4)))


def test_writing_into_tensors_is_captured_without() -> None:
    def step(x: Tensor) -> Tensor:
        y = x.new_zeros(6)
        y[1:5] = x
        y[0] = 2.0
        return y * y

    graph = capture(step, torch.rand(4), [])
    Reference(step, torch.rand(4), [], []).check(graph, 1e-6)


def test_a_baked_parameter_is_noticed() -> None:
    outside = torch.tensor(0.5)
    reference = Reference(lambda x, k: x * k, torch.rand(3), [torch.tensor(0.5)], ["k"])
    with error_naming(CaptureError, "gradient", "k"):
        reference.check(lambda x, k: x * outside, 1e-6)
    with error_naming(CaptureError, "result"):
        reference.check(lambda x, k: x * k * 1.1, 1e-6)
