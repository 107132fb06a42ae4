"""Steady equations: solutions with their order, derivatives, what is refused, and whole inverse problems."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from gallery_cases import REGISTRY
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

import hyco_engine as hyco
from hyco_engine.augment.recipes import RolloutRecipe
from hyco_engine.builtin.models.options_physical import EquationOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics import multigrid, steady
from hyco_engine.physics.multigrid import Multigrid
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.steady import Stencil
from hyco_engine.report.run_figures import draw
from hyco_engine.runs.loading import evaluate
from hyco_engine.training.jacobian import ForwardJacobian

pytestmark = pytest.mark.usefixtures("measured")


def model(
    steady: str | Mapping[str, str],
    resolution: Sequence[int],
    parameters: Mapping[str, Any],
    boundary: Any = 0.0,
    **options: Any,
) -> Any:
    """Return a model on the unit line, square or cube with the static field f; walls lie at the ends, as for nodes."""
    axes = ("x", "y", "z")[: len(resolution)]
    closed = boundary == "periodic"
    ends = [0.0 if closed else 0.5 / (n + 1) for n in resolution]
    beyond = Boundary.parse("periodic" if closed else "zero-gradient", axes)
    texts = {"u": steady} if isinstance(steady, str) else steady
    layout = StateLayout(
        grid=Grid(axes=axes, resolution=tuple(resolution), lower=tuple(ends), upper=tuple(1.0 - end for end in ends)),
        dynamic=tuple(FieldInfo(name=name, boundary=Boundary.parse(boundary, axes)) for name in texts),
        static=(FieldInfo(name="f", boundary=beyond),),
    )
    settings = {
        name: own if isinstance(own, ParameterSetting) else ParameterSetting(init=own)
        for name, own in parameters.items()
    }
    context = BuildContext(seed=0, registry=REGISTRY, dtype=torch.float64, layout=layout, dt=1.0, parameters=settings)
    return REGISTRY.build("hyco_models", "equation", EquationOptions(steady=texts, **options), context)


def places(own: Any) -> list[Tensor]:
    grid = own.layout.grid
    lines = [torch.tensor(grid.centers(axis), dtype=torch.float64) for axis in grid.axes]
    return list(torch.meshgrid(*lines, indexing="ij"))


def with_source(own: Any, f: Tensor) -> Tensor:
    """Return states `[B, C_all, *S]` that begin at 0, for sources `[B, *S]`."""
    guess = f.new_zeros(len(f), own.layout.n_dynamic, *f.shape[1:])
    return torch.cat([guess, f[:, None]], dim=1)


@pytest.mark.parametrize(("boundary", "wave"), [(0.0, math.pi), ("periodic", 2 * math.pi)])
def test_a_linear_equation_is_solved_with_order_four(boundary: Any, wave: float) -> None:
    errors = []
    for n in (15, 31, 63):
        own = model("div(kappa*grad(u)) - eta*u + f", (n, n), {"kappa": 0.7, "eta": 2.0}, boundary)
        x, y = places(own)
        exact = torch.sin(wave * x) * torch.sin(wave * y)
        found = own(with_source(own, ((1.4 * wave**2 + 2) * exact)[None]))
        errors.append(float((found[0, 0] - exact).detach().abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([4, 4], abs=0.3)
    assert errors[-1] < 2e-6


def test_a_coefficient_that_varies_and_a_nonlinear_term_keep_the_order() -> None:
    errors = []
    for n in (15, 31, 63):
        own = model("dx((2 + sin(2*pi*x))*dx(u)) - u**3 + f", (n,), {}, "periodic")
        (x,) = places(own)
        k = 2 * math.pi
        u, a = torch.cos(k * x), 2 + torch.sin(k * x)
        flux_slope = -(k**2) * (a * torch.cos(k * x) + torch.cos(k * x) * torch.sin(k * x))
        found = own(with_source(own, (u**3 - flux_slope)[None]))
        errors.append(float((found[0, 0] - u).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([4, 4], abs=0.4)


def test_coupled_equations_are_solved_together() -> None:
    own = model({"u": "lap(u) - a*u*v + f", "v": "lap(v) + u - v"}, (12, 9), {"a": 3.0})
    x, y = places(own)
    state = with_source(own, (20 * torch.sin(math.pi * x) * y)[None])
    found = own(state)
    left = own.physics.residual(found, {"f": state[:, 2:]}, {"a": torch.tensor(3.0, dtype=torch.float64)})
    assert float(left.detach().abs().max()) < 1e-9
    assert float(found.detach().abs().max()) > 0.1


@pytest.mark.parametrize(
    ("resolution", "periodic", "boxes", "components"),
    [
        ((7,), (True,), [(2,)], 1),
        ((11,), (True,), [(1,)], 2),
        ((4, 9), (True, False), [(2, 2)], 1),
        ((3,), (False,), [(3,)], 1),
        ((8, 11), (True, False), [(2, 0), (0, 2)], 2),
        ((3, 5), (True, True), [(2, 0), (0, 2)], 1),
        ((4, 5, 6), (True, False, True), [(2, 0, 0), (0, 1, 1)], 1),
    ],
)
def test_few_products_give_the_whole_matrix(
    resolution: tuple[int, ...], periodic: tuple[bool, ...], boxes: list[tuple[int, ...]], components: int
) -> None:
    stencil = Stencil(components=components, resolution=resolution, periodic=periodic, boxes=frozenset(boxes))
    generator = torch.Generator().manual_seed(0)
    size = components * math.prod(resolution)
    allowed = torch.ones(size, size, dtype=torch.bool).reshape(components, -1, components, math.prod(resolution))
    cells = list(np.ndindex(*resolution))
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            gaps = [abs(p - q) for p, q in zip(a, b, strict=True)]
            gaps = [min(g, n - g) if own else g for g, n, own in zip(gaps, resolution, periodic, strict=True)]
            allowed[:, i, :, j] = any(all(g <= r for g, r in zip(gaps, box, strict=True)) for box in boxes)
    matrix = torch.where(
        allowed.reshape(size, size), torch.rand(size, size, generator=generator, dtype=torch.float64), 0.0
    )
    state = torch.zeros(components, *resolution, dtype=torch.float64)
    found = stencil.jacobian(lambda u: (matrix @ u.reshape(-1)).reshape(u.shape), state)
    assert np.allclose(found.toarray(), matrix.numpy(), atol=0, rtol=1e-14)


@pytest.mark.parametrize(
    ("texts", "resolution"),
    [
        ("dx(u, 2) - u**3", (3,)),
        ("dx((1 + u**2)*dx(u)) + u*dx(u)", (4,)),
        ("dx(dx(dx(u*dx(u)))) + f*u", (9,)),
        ("lap(u) - u**3", (3, 11)),
        ("dx(dy(u)) + lap(u)", (5, 4)),
        ("div((1 + f + u**2)*grad(u))", (7, 9)),
        ("(1 + lap(lap(u)))*dy(u, 3)", (12, 10)),
        ("lap(u) - mean(u)*u", (5, 4)),
        ({"u": "lap(u) - u*v", "v": "dx(dy(v)) + u*dx(v)"}, (7, 8)),
        ({"u": "lap(u) - u*v", "v": "dz(u) + dx(dz(v))"}, (4, 6, 5)),
    ],
)
@pytest.mark.parametrize("boundary", ["periodic", 0.0, "zero-gradient", "antireflect"])
def test_the_matrix_is_that_of_all_derivatives(texts: Any, resolution: tuple[int, ...], boundary: Any) -> None:
    own = model(texts, resolution, {}, boundary)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(own.layout.n_dynamic + 1, *resolution, generator=generator, dtype=torch.float64) + 0.5
    state, f = drawn[:-1], drawn[None, -1:]

    def residual(u: Tensor) -> Tensor:
        found: Tensor = own.physics.residual(u[None], {"f": f}, {})[0]
        return found

    dense = torch.autograd.functional.jacobian(residual, state).reshape(state.numel(), -1).numpy()
    found = own.physics.stencil.jacobian(residual, state).toarray()
    assert np.abs(found - dense).max() < 1e-14 * np.abs(dense).max()


@pytest.mark.parametrize(
    ("texts", "resolution", "boundary", "products"),
    [
        ("dx(u, 2) - u", (48,), 0.0, 5),
        ("lap(u) - u", (48, 48), 0.0, 10),
        ("div((1 + u)*grad(u)) - u", (20, 20, 20), 0.0, 13),
        ("lap(u) - u", (32, 32, 32), "periodic", 32),
        ({"u": "lap(u) - u*v", "v": "lap(v) - v"}, (48, 48), 0.0, 20),
        ("lap(u) + dx(dy(u))", (48, 48), 0.0, 25),
        ("lap(lap(u))", (48, 48), 0.0, 34),
        ("lap(u) - u", (3, 4), 0.0, 9),
    ],
)
def test_a_cross_takes_fewer_products_than_its_box(
    texts: Any, resolution: tuple[int, ...], boundary: Any, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = model(texts, resolution, {}, boundary)
    taken: list[int] = []
    vmap = torch.func.vmap

    def counted(product: Any, **options: Any) -> Any:
        def over(seeds: Tensor) -> Tensor:
            taken.append(len(seeds))
            found: Tensor = vmap(product, **options)(seeds)
            return found

        return over

    monkeypatch.setattr(torch.func, "vmap", counted)
    f = torch.zeros(1, 1, *resolution, dtype=torch.float64)
    state = torch.ones(own.layout.n_dynamic, *resolution, dtype=torch.float64)
    own.physics.stencil.jacobian(lambda u: own.physics.residual(u[None], {"f": f}, {})[0], state)
    assert taken == [products]


def system(own: Any, **parameters: float) -> tuple[csc_matrix, Stencil]:
    """Return the matrix of the residual about a state that varies."""
    known = {name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()}
    shape = own.layout.grid.resolution
    f = torch.zeros(1, 1, *shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(own.layout.n_dynamic, *shape, generator=generator, dtype=torch.float64)
    stencil = own.physics.stencil
    return stencil.jacobian(lambda u: own.physics.residual(u[None], {"f": f}, known)[0], state), stencil


CASES = {
    "coefficient": ("div((1 + 0.9*sin(7*x)*cos(5*y))*grad(u)) - 2*u + f", 0.0, 12),
    "periodic": ("lap(u) - 2*u + f", "periodic", 12),
    "zero-gradient": ("lap(u) - 2*u + f", "zero-gradient", 12),
    "not symmetric": ("div((1 + 0.5*sin(7*x))*grad(u)) - 20*dx(u) - 10*y*dy(u) + f", 0.0, 20),
    "indefinite": ("lap(u) + 100*u + f", 0.0, 40),
    "nonlinear": ("lap(u) - u**3 + f", 0.0, 12),
    "joined weakly along y": ("dx(u, 2) + 0.01*dy(u, 2) - u + f", 0.0, 20),
}


class TestMultigrid:
    @pytest.mark.parametrize(("text", "boundary", "most"), CASES.values(), ids=CASES)
    @pytest.mark.parametrize("way", ["N", "T"])
    def test_takes_few_iterations_whatever_the_grid(
        self, text: str, boundary: Any, most: int, way: Literal["N", "T"], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[float] = []
        told = partial(multigrid.gmres, callback=taken.append, callback_type="pr_norm")
        monkeypatch.setattr(multigrid, "gmres", told)
        for n in (31, 64):
            matrix, stencil = system(model(text, (n, n), {}, boundary))
            right = np.random.default_rng(0).normal(size=(n * n, 1))
            taken.clear()
            found = Multigrid(matrix, stencil.resolution, stencil.periodic).solve(right, way)
            assert found is not None
            assert len(taken) <= most
            direct = splu(matrix).solve(right, way)
            assert np.abs(found - direct).max() < 1e-6 * np.abs(direct).max()

    def test_solves_for_several_fields(self) -> None:
        texts = {"u": "lap(u) - 3*u*v + f", "v": "lap(v) + u - v"}
        matrix, stencil = system(model(texts, (20, 31), {}))
        right = np.random.default_rng(0).normal(size=(2 * 20 * 31, 1))
        for way in ("N", "T"):
            found = Multigrid(matrix, stencil.resolution, stencil.periodic).solve(right, way)
            assert found is not None
            assert np.allclose(found, splu(matrix).solve(right, way), rtol=0, atol=1e-7 * np.abs(found).max())

    def test_of_a_cube_keeps_the_order_and_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steady, "splu", None)
        errors = []
        for n in (17, 35):
            own = model("div(kappa*grad(u)) - eta*u + f", (n, n, n), {"kappa": 0.7, "eta": 2.0})
            x, y, z = places(own)
            exact = torch.sin(math.pi * x) * torch.sin(math.pi * y) * torch.sin(math.pi * z)
            found = own(with_source(own, ((2.1 * math.pi**2 + 2) * exact)[None]))
            errors.append(float((found[0, 0] - exact).detach().abs().max()))
        assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.2)
        assert own.statements[0] == (
            "the steady equation is linear, and is solved once, with multigrid and GMRES (sparse factors where that "
            "does not converge) of central differences of fourth order; derivatives follow from the implicit function "
            "theorem"
        )

    @pytest.mark.parametrize("text", ["div(kappa*grad(u)) - a*u**3 + f", "div(kappa*grad(u)) - 9*dx(u) - a*u + f"])
    def test_gives_states_and_derivatives_of_factors_and_of_differences(
        self, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = []
        for least in (0.0, math.inf):
            monkeypatch.setattr(steady, "LEAST", (least,) * 3)
            own = model(text, (26, 25), {"kappa": 0.6, "a": 1.5})
            x, y = places(own)
            state = with_source(own, torch.stack([30 * x * y, 20 * torch.sin(3 * x)]))
            weights = torch.linspace(-1, 1, 2 * 26 * 25, dtype=torch.float64)

            def loss(kappa: Any, a: Any, own: Any = own, state: Any = state, weights: Any = weights) -> Any:
                named = {"learnables.raw.kappa": kappa, "learnables.raw.a": a}
                return (torch.func.functional_call(own, named, (state,)).flatten() * weights).sum()

            raw = [own.learnables.raw[name].detach().clone().requires_grad_() for name in ("kappa", "a")]
            slopes = torch.autograd.grad(loss(*raw), raw)
            h = 1e-4
            for index, slope in enumerate(slopes):
                ends = [[value + sign * h * (i == index) for i, value in enumerate(raw)] for sign in (1, -1)]
                change = float((loss(*ends[0]) - loss(*ends[1])).detach()) / (2 * h)
                assert float(slope) == pytest.approx(change, rel=1e-6)
            found.append((own(state).detach(), torch.stack(slopes)))
        for iterated, direct in zip(*found, strict=True):
            assert torch.allclose(iterated, direct, rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize(
        "text",
        ["lap(u) + 19.7*u + f", "0.001*lap(u) - 20*y*dx(u) + 15*dy(u) + f", "lap(u) + 3000*u + f"],
        ids=["nearly singular", "advection", "many waves"],
    )
    def test_where_it_fails_factors_give_the_state(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for least, rounds in ((0.0, 1), (math.inf, 3)):
            monkeypatch.setattr(steady, "LEAST", (least,) * 3)
            monkeypatch.setattr(multigrid, "RESTARTS", rounds)
            own = model(text, (30, 30), {})
            x, y = places(own)
            found.append(own(with_source(own, (1 + x + y**2)[None])))
        assert bool(found[1].isfinite().all())
        assert torch.allclose(found[0], found[1], rtol=1e-6)

    def test_factors_that_would_not_fit_are_not_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steady, "LEAST", (0.0,) * 3)
        monkeypatch.setattr(multigrid, "BETWEEN", 2)
        own = model("lap(u) + f", (30, 30), {})
        state = with_source(own, torch.ones(1, 30, 30, dtype=torch.float64))
        assert bool(own(state).isfinite().all())
        monkeypatch.setattr(steady, "MOST_ENTRIES", 1e5)
        with pytest.warns(RuntimeWarning, match="steady state with 900 unknowns, and factors of the matrix would have"):
            assert bool(own(state).isnan().all())

    @pytest.mark.parametrize("shape", [(40, 40), (14, 14, 14), (4, 300)])
    def test_entries_of_factors_are_estimated(self, shape: tuple[int, ...]) -> None:
        matrix, stencil = system(model("lap(u) - u + f", shape, {}))
        assert 0.5 < stencil.entries / splu(matrix).nnz < 2.5

    def test_a_matrix_that_is_singular_has_no_inverse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steady, "LEAST", (0.0,) * 3)
        own = model("0*lap(u) + f", (30, 30), {}, "periodic")
        assert bool(own(with_source(own, torch.ones(1, 30, 30, dtype=torch.float64))).isnan().all())


class TestDerivatives:
    @pytest.fixture
    def own(self) -> Any:
        settings = {
            "kappa": ParameterSetting(init=0.6, field=True, bounds=(0.0, math.inf)),
            "a": ParameterSetting(init=1.5),
        }
        return model("div(kappa*grad(u)) - a*u**3 + f", (6, 5), settings)

    def rolled(self, own: Any, state: Tensor, **raw: Tensor) -> Tensor:
        named = {f"learnables.raw.{name}": value for name, value in raw.items()}
        found: Tensor = torch.func.functional_call(own, named, (state,))
        return found

    def test_by_numbers_by_fields_and_by_static_fields_are_those_of_differences(self, own: Any) -> None:
        x, y = places(own)
        f = torch.stack([30 * x * y, 20 * torch.sin(3 * x)])
        raw = {name: value.detach().clone().requires_grad_() for name, value in own.learnables.raw.items()}
        assert torch.autograd.gradcheck(
            lambda kappa, a, f: self.rolled(own, with_source(own, f), kappa=kappa, a=a),
            (raw["kappa"], raw["a"], f.requires_grad_()),
            fast_mode=True,
        )

    def test_in_forward_mode_are_those_of_reverse_mode(self, own: Any) -> None:
        state = with_source(own, 30 * torch.ones(2, 6, 5, dtype=torch.float64))
        start = torch.stack([own.learnables.raw["a"].detach()])
        forward = ForwardJacobian()
        value, columns = forward(lambda x: self.rolled(own, state, a=x[0]).flatten(), start, 60)
        assert (forward.way, forward.reason) == ("together", "")
        weights = torch.linspace(-1, 1, len(value), dtype=torch.float64)
        (slope,) = torch.autograd.grad((own(state).flatten() * weights).sum(), own.learnables.raw["a"])
        assert float(columns[:, 0] @ weights) == pytest.approx(float(slope), rel=1e-9)


def test_samples_may_differ_in_what_is_known_of_them() -> None:
    settings = {"k": ParameterSetting(from_="f")}
    own = model("dx(u, 2) - 4*u + k", (16,), settings, "periodic")
    found = own(with_source(own, torch.tensor([[4.0] * 16, [8.0] * 16], dtype=torch.float64)))
    assert torch.allclose(found[:, 0], torch.tensor([[1.0], [2.0]], dtype=torch.float64).expand(2, 16))


def test_where_there_is_no_steady_state_it_is_not_a_number() -> None:
    own = model("u**2 + 1 + 0*dx(u, 2) + 0*f", (8,), {}, "periodic")
    assert bool(own(with_source(own, torch.zeros(1, 8, dtype=torch.float64))).isnan().all())
    singular = model("0*u + f", (8,), {}, "periodic")
    assert bool(singular(with_source(singular, torch.ones(1, 8, dtype=torch.float64))).isnan().all())


def test_the_mean_of_a_field_joins_all_unknowns() -> None:
    own = model("dx(u, 2) - u - 2*mean(u) + f", (10,), {}, "periodic")
    found = own(with_source(own, torch.full((1, 10), 6.0, dtype=torch.float64)))
    assert torch.allclose(found, torch.full_like(found, 2.0))
    with pytest.raises(SpecError, match="the mean of a field joins all 2500 unknowns; with it, at most 2000"):
        model("lap(u) - u - mean(u) + f", (50, 50), {}, "periodic")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rates": {"u": "u"}, "steady": {"u": "u"}}, "steady: a physics has rates of change or steady states"),
        ({"steady": {"u": "u"}, "scheme": "spectral"}, "scheme: steady states are solved by central differences"),
        ({"steady": {"u": "lap(u"}}, "steady.u: column 4, at '(u': this parenthesis is not closed"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        EquationOptions(**options)
    assert told in str(caught.value)


def test_a_steady_state_does_not_depend_on_time() -> None:
    learned = {"a": ParameterSetting(init=1.0, along="t")}
    every: list[tuple[str, Any, str]] = [("u - t", {}, "steady"), ("u - a", learned, "parameters.a.along")]
    for text, parameters, key in every:
        with pytest.raises((SpecError, DataError)) as caught:
            model(text, (8,), parameters)
        assert f"physical.{key}: a steady state does not depend on time" in str(caught.value)
    with pytest.raises(SpecError, match=r"data\.boundary: a steady state does not depend on time"):
        model("lap(u)", (8,), {"a": 1.0}, boundary={"x": {"lower": "a*t", "upper": 0.0}})


def test_it_is_told_how_a_steady_equation_is_read_and_solved() -> None:
    own = model("nu*dx(u, 2) - u + f", (8,), {"nu": 0.1})
    assert [one["unicode"] for one in own.equations] == ["0 = nu·∂x² u - u + f"]
    assert own.statements == [
        "the steady equation is linear, and is solved directly, with sparse factors of central differences of fourth "
        "order; derivatives follow from the implicit function theorem"
    ]
    assert own.execution == ("eager", "steady states are solved for by a library")


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on noisy solutions of the Helmholtz equation, which numpy makes in Fourier space."""
    folder = tmp_path_factory.mktemp("waves")
    rng = np.random.default_rng(1)
    k = 2 * np.pi * np.fft.fftfreq(16, 1 / 16)
    square = k[:, None] ** 2 + k[None] ** 2
    drawn = np.fft.fft2(rng.normal(size=(6, 16, 16))) * np.exp(-square / 200)
    u = np.fft.ifft2(drawn / (square - 47.0)).real
    np.savez(folder / "u.npz", f=np.fft.ifft2(drawn).real, u=u + 0.02 * u.std() * rng.normal(size=u.shape))
    spec = {
        "run": {"name": "waves", "cycles": 1},
        "paths": {"cache": str(folder / "cache")},
        "data": {
            "kind": "arrays",
            "path": str(folder / "u.npz"),
            "axes": "sxy",
            "steady": True,
            "variables": {"u": "u", "f": {"static": True}},
            "bounds": {"x": [0.0, 1.0], "y": [0.0, 1.0]},
            "boundary": "periodic",
            "points": "cells",
            "num_predict_steps": 1,
            "split": {"train": "0:4", "val": "4:5", "test": "5:6"},
        },
        "physical": {
            "kind": "equation",
            "steady": {"u": "lap(u) + k2*u + f"},
            "parameters": {"k2": {"init": 44.0, "bounds": [0.0, 100.0]}},
        },
        "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
        "training": {"synthetic": {"epochs_per_cycle": 2}},
    }
    hyco.run(spec, run_dir=folder / "run")
    return folder / "run"


def test_a_parameter_is_found_from_noisy_states(waves: Path) -> None:
    found = summary(waves)
    entry = found["parameters"]["k2"]
    assert abs(entry["final"] - 47.0) < 3 * entry["budget"]["total"] < 0.2
    # the first guess, 0, is no observation
    assert found["noise"]["u"]["relative"] == pytest.approx(0.02, rel=0.3)
    assert found["metrics"]["persistence"]["test"]["nrmse"] == pytest.approx(1.0)
    assert found["physics_test"]["explained"]


def test_a_run_of_steady_states_is_read_back(waves: Path) -> None:
    physics = hyco.load_physics(waves)
    state = torch.zeros(2, 2, 16, 16)
    state[:, 1] = 47.0
    assert physics.steady
    assert torch.allclose(physics(state), torch.full((2, 1, 16, 16), -1.0), rtol=1e-2)
    assert evaluate(waves, "test")["metrics"]["physical"]["test"]["vrmse"] < 0.1


def test_sensors_without_a_time_and_a_network_of_position_find_a_conductivity(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0.05, 0.95, 60)
    # -0.5 u'' = pi^2 sin(pi x)
    np.savetxt(tmp_path / "u.csv", np.c_[x, 2 * np.sin(np.pi * x)], delimiter=",", header="x,u", comments="")
    n = 31
    np.save(tmp_path / "f.npy", np.pi**2 * np.sin(np.pi * np.arange(1, n + 1) / (n + 1)))
    spec = {
        "run": {"name": "rod", "cycles": 1},
        "paths": {"cache": str(tmp_path / "cache")},
        "data": {
            "kind": "points",
            "path": str(tmp_path / "u.csv"),
            "steady": True,
            "split": {"by": "sensor"},
            "resolution": {"x": n},
            "bounds": {"x": [0.5 / (n + 1), 1 - 0.5 / (n + 1)]},
            "boundary": 0.0,
            "static": {"f": {"file": str(tmp_path / "f.npy")}},
            "truth": {"kappa": 0.5},
            "num_predict_steps": 1,
        },
        "physical": {
            "kind": "equation",
            "steady": {"u": "div(kappa*grad(u)) + f"},
            "parameters": {"kappa": {"init": 1.0, "bounds": [0.01, 10.0]}},
        },
        "synthetic": {"kind": "coordinate-mlp", "duration": 1.0, "width": 16, "depth": 2},
        "training": {"synthetic": {"epochs_per_cycle": 100, "lr": 1e-2}},
        "augmentation": {"kind": "interaction", "alpha": 0.1},
    }
    hyco.Engine(spec, draw=draw).run(tmp_path / "run")
    found = summary(tmp_path / "run")
    # linear interpolation between the cells errs by 0.1 %
    assert found["parameters"]["kappa"]["relative_error"] < 3e-3
    assert found["metrics"]["physical"]["val"]["nrmse"] < 3e-3
    assert found["metrics"]["synthetic"]["val"]["nrmse"] < 0.2
    assert not [text for text in found["warnings"] if "drawn" in text]
    assert (tmp_path / "run" / "figures" / "comparison.png").is_file()


def test_a_teacher_of_steady_states_begins_at_the_first_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec: dict[str, Any] = {
        "run": {"name": "drawn", "cycles": 2},
        "paths": {"cache": str(tmp_path / "cache")},
        "data": {
            "kind": "simulate",
            "truth": {"kappa": 0.02},
            "num_simulations": 4,
            "resolution": {"x": 16},
            "boundary": "periodic",
            "dt": 1.0,
            "num_predict_steps": 1,
            "split": {"train": "0:2", "val": "2:3", "test": "3:4"},
        },
        "physical": {
            "kind": "equation",
            "steady": {"u": "kappa*lap(u) - u + f"},
            "inputs": ["f"],
            "parameters": {"kappa": {"init": 0.05, "bounds": [0.0, 1.0]}},
        },
        "synthetic": {"kind": "resnet", "width": 4, "blocks": 1},
        "training": {"synthetic": {"epochs_per_cycle": 1}},
        "augmentation": {"kind": "trust", "alpha": 3.0, "starts": "drawn"},
    }
    engine = hyco.Engine(spec)
    seen: list[Tensor] = []
    made = RolloutRecipe.generate

    def generate(self: Any, indices: Tensor) -> Any:
        batch = made(self, indices)
        seen.append(batch[0])
        return batch

    monkeypatch.setattr(RolloutRecipe, "generate", generate)
    engine.run(tmp_path / "run")
    starts = torch.cat(seen)
    assert len(starts) >= 6
    assert not bool(starts[:, 0].any())
    assert len({tuple(f.tolist()) for f in starts[:, 1]}) >= 6
    assert summary(tmp_path / "run")["parameters"]["kappa"]["relative_error"] < 1e-5


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "u.npz", u=np.zeros((2, 8)))
    data = {"kind": "arrays", "path": str(tmp_path / "u.npz"), "boundary": "periodic", "bounds": {"x": [0.0, 1.0]}}
    physical = {"kind": "equation", "steady": {"u": "dx(u, 2) - u"}}
    with pytest.raises(SpecError) as caught:
        hyco.Engine({"data": {**data, "axes": "tx", "steady": True}, "physical": physical})
    assert "data.steady: states that do not change have no time: leave dt, time and an axis t out" in str(caught.value)
    (tmp_path / "u.csv").write_text("t,x,u\n0,0.5,1\n")
    points = {
        "kind": "points",
        "path": str(tmp_path / "u.csv"),
        "steady": True,
        "resolution": {"x": 8},
        "boundary": 0.0,
    }
    with pytest.raises(SpecError) as caught:
        hyco.Engine({"data": points, "physical": physical}).plan()
    assert "u.csv has a column t, and states that do not change have no time: leave data.steady out" in str(
        caught.value
    )
    made = {"kind": "simulate", "resolution": {"x": 8}, "dt": 1.0, "boundary": "periodic", "num_predict_steps": 1}
    with pytest.raises(DataError) as caught:
        hyco.Engine({"data": made, "physical": physical}).simulate(tmp_path / "out", "well")
    assert "physical.inputs: steady states that are simulated differ in their inputs alone" in str(caught.value)
    one_step = {"num_predict_steps": 1, "split": {"train": "0:1", "val": "1:2"}}
    np.savez(tmp_path / "u.npz", u=np.zeros((2, 3, 8)))
    with pytest.raises(SpecError) as caught:
        hyco.Engine({"data": {**data, **one_step, "axes": "stx", "dt": 1.0}, "physical": physical}).plan()
    assert "physical.kind: the physics gives steady states, and the data change in time: " in str(caught.value)
    np.savez(tmp_path / "u.npz", u=np.zeros((2, 8)))
    rates = {"kind": "equation", "rates": {"u": "k*dx(u, 2)"}, "parameters": {"k": {"init": 1.0}}}
    with pytest.raises(SpecError) as caught:
        hyco.Engine({"data": {**data, **one_step, "axes": "sx", "steady": True}, "physical": rates}).plan()
    assert "data.steady: the data hold steady states, and this physics gives rates of change: " in str(caught.value)
