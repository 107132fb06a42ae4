"""The Fourier neural operator: the contract of surrogates, its transform, its independence of the resolution."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import hyco_engine_fno
import pytest
import torch
from hyco_engine_fno import FNOOptions
from hyco_engine_fno.model import FNOBody, build
from hyco_engine_fno.spectral import SpectralConvolution
from torch import Tensor, nn

import hyco_engine as hyco
from hyco_engine import Registry
from hyco_engine.data.fields import StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import SurrogateContext, Trajectory
from hyco_engine.runs.export import export
from hyco_engine.testing.contexts import LAYOUTS, tiny_context, tiny_layout
from hyco_engine.testing.measuring import stirred
from hyco_engine.testing.specs import RunSpec
from hyco_engine.testing.surrogates import SurrogateContract

pytest_plugins = ["hyco_engine.testing.fixtures"]

DOUBLE = torch.float64


class TestContract(SurrogateContract):
    def make(self, context: SurrogateContext) -> nn.Module:
        return build(FNOOptions(modes=(3,), width=4, layers=2), context)


class TestContractWithPositions(SurrogateContract):
    def make(self, context: SurrogateContext) -> nn.Module:
        return build(FNOOptions(modes=(2,), width=4, layers=1, positions=True, activation="tanh"), context)


def net(layout: StateLayout, dtype: torch.dtype = DOUBLE, **options: Any) -> nn.Module:
    """With weights and changes of ordinary size, so that tests of it see them."""
    given: dict[str, Any] = {"modes": (4,), "width": 6, "layers": 3} | options
    return stirred(build(FNOOptions(**given), tiny_context(layout, dtype=dtype)))


# --- the transform ----------------------------------------------------------------------------------------------------


def places(*sizes: int) -> list[Tensor]:
    return list(torch.meshgrid(*(2 * math.pi * torch.arange(n, dtype=DOUBLE) / n for n in sizes), indexing="ij"))


def identity(modes: tuple[int, ...]) -> SpectralConvolution:
    """Of one channel, with the weight 1 for every frequency that is kept."""
    layer = SpectralConvolution(1, 1, modes).to(DOUBLE)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[..., 0] = 1.0
    return layer


@pytest.mark.parametrize(
    ("sizes", "wave"), [((9,), (2,)), ((8, 9), (2, 1)), ((8, 9), (-2, 1)), ((9, 8), (0, 2)), ((5, 6, 7), (-1, 2, 1))]
)
def test_waves_below_the_modes_pass_and_others_are_dropped(sizes: tuple[int, ...], wave: tuple[int, ...]) -> None:
    phase = sum(k * x for k, x in zip(wave, places(*sizes), strict=True))
    u = torch.cos(phase + 0.3)[None, None]  # type: ignore[operator]
    modes = tuple(abs(k) + 1 for k in wave)
    torch.testing.assert_close(identity(modes)(u), u, rtol=0, atol=1e-14)
    for axis, k in enumerate(wave):
        if k:
            fewer = tuple(m - (i == axis) for i, m in enumerate(modes))
            torch.testing.assert_close(identity(fewer)(u), torch.zeros_like(u), rtol=0, atol=1e-14)


def test_a_weight_turns_and_stretches_its_wave() -> None:
    layer = SpectralConvolution(2, 1, (3,)).to(DOUBLE)
    with torch.no_grad():
        layer.weight.zero_()
        # 2 exp(i 0.7) for frequency 2 of the second channel
        layer.weight[2, 1, 0] = torch.tensor([2 * math.cos(0.7), 2 * math.sin(0.7)], dtype=DOUBLE)
    (x,) = places(10)
    out = layer(torch.stack([torch.cos(2 * x), torch.cos(2 * x) + torch.sin(x)])[None])
    torch.testing.assert_close(out[0, 0], 2 * torch.cos(2 * x + 0.7), rtol=0, atol=1e-13)


def test_initial_weights_keep_the_size_of_a_frequency() -> None:
    layer = SpectralConvolution(64, 64, (5, 6)).to(DOUBLE)
    layer.initialise(torch.Generator().manual_seed(0), gain=1.5)
    sizes = torch.view_as_complex(layer.weight.detach()).abs().square().sum(1).mean()
    assert sizes.item() == pytest.approx(1.5**2, rel=0.02)


# --- what it is for ---------------------------------------------------------------------------------------------------


def band_limited(*sizes: int, channels: int = 1) -> Tensor:
    """Sums of a few waves, sampled where `j / n`, so that every second sample of a fine grid lies on the coarse one."""
    generator = torch.Generator().manual_seed(4)
    out = torch.zeros(2, channels, *sizes, dtype=DOUBLE)
    for k in range(4):
        amplitude, phase = torch.rand(2, 2, channels, *[1] * len(sizes), generator=generator, dtype=DOUBLE)
        out += amplitude * torch.cos(k * sum(places(*sizes)) + 6.28 * phase) / (1 + k)
    return out


@torch.no_grad()
@pytest.mark.parametrize(("coarse", "tolerance"), [((64,), 1e-10), ((32, 32), 1e-6)])
def test_the_same_weights_make_the_same_step_at_twice_the_resolution(coarse: tuple[int, ...], tolerance: float) -> None:
    """To within what a nonlinearity puts beyond the coarse grid's frequencies."""
    fine = tuple(2 * n for n in coarse)
    here, there = net(tiny_layout(*coarse)), net(tiny_layout(*fine))
    there.load_state_dict(here.state_dict())
    step, finer = here(band_limited(*coarse)), there(band_limited(*fine))
    every_second = finer[(..., *(slice(None, None, 2) for _ in coarse))]
    change = step - band_limited(*coarse)
    assert (every_second - step).abs().max() <= tolerance * change.std()


def test_shifts_along_periodic_axes_commute() -> None:
    layout = tiny_layout(16, 12, vector=True)
    x = torch.randn(2, 2, 16, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    model = net(layout)
    moved = model(x.roll((3, -5), dims=(2, 3)))
    torch.testing.assert_close(moved, model(x).roll((3, -5), dims=(2, 3)), rtol=1e-12, atol=1e-12)


def test_open_axes_are_continued_by_their_boundary_condition_and_cropped() -> None:
    layout = tiny_layout(8, 12, boundary={"x": "periodic", "y": 0.5})
    model = build(FNOOptions(modes=(3,), width=4, layers=1, padding=0.25), tiny_context(layout, dtype=DOUBLE))
    assert isinstance(model.body, FNOBody)
    seen: list[Tensor] = []
    model.body.lift.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    state = torch.randn(1, 1, 8, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert model(state).shape == (1, 1, 8, 12)
    given = seen[0] * model.std + model.mean
    assert given.shape == (1, 1, 8, 18)
    torch.testing.assert_close(given[..., 3:-3], state)
    torch.testing.assert_close(given[..., :3], torch.full((1, 1, 8, 3), 0.5, dtype=DOUBLE))
    torch.testing.assert_close(given[..., -3:], torch.full((1, 1, 8, 3), 0.5, dtype=DOUBLE))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "x".join(map(str, layout.spatial)))
def test_exports_with_any_batch_size_in_1_to_3_dimensions(layout: StateLayout) -> None:
    model = net(layout, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, layout.n_all, *layout.spatial, generator=generator)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (states[:2],), dynamic_shapes=shapes).module()
    for batch in (states[:1], states):
        torch.testing.assert_close(program(batch), model(batch), rtol=0, atol=1e-5)


def test_learns_to_beat_persistence_on_unseen_data() -> None:
    """Waves that travel and fade, u_t + c u_x = nu u_xx, solved exactly."""
    layout, (n, frames) = tiny_layout(32), (32, 10)
    k = 2 * math.pi * torch.arange(6, dtype=DOUBLE)
    factor = torch.exp((-0.5j * k - 1e-3 * k**2) * 0.05 * torch.arange(frames)[:, None])
    starts = torch.view_as_complex(torch.randn(40, 1, 6, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))
    u = torch.fft.irfft(starts * factor, n=n, norm="forward")[:, :, None]
    train, unseen = u[:32], u[32:].float()
    statistics = Statistics.of([Trajectory(dynamic=one, static=torch.zeros(0, n)) for one in train], layout)
    model = build(FNOOptions(modes=(8,), width=16, layers=2), tiny_context(layout, statistics=statistics))
    inputs, targets = train[:, :-1].flatten(0, 1).float(), train[:, 1:].flatten(0, 1).float()
    optimizer, generator = torch.optim.Adam(model.parameters(), 5e-3), torch.Generator().manual_seed(0)
    for _ in range(300):
        some = torch.randint(len(inputs), (16,), generator=generator)
        optimizer.zero_grad()
        (model(inputs[some]) - targets[some]).square().mean().backward()
        optimizer.step()
    state = unseen[:, 0]
    with torch.no_grad():
        for _ in range(1, frames):
            state = model(state)
    error, floor = ((guess - unseen[:, -1]).square().mean().sqrt() for guess in (state, unseen[:, 0]))
    assert error < 0.15 * floor


# --- as a plugin ------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(DataError) as data:
        build(FNOOptions(), tiny_context())
    assert str(data.value).endswith("the surrogate 'fno' needs fields on a grid, and this data has none")
    with pytest.raises(SpecError) as spec:
        build(FNOOptions(modes=(6, 7)), tiny_context(tiny_layout(16, 12)))
    assert str(spec.value).endswith("7 modes need 13 or more cells, and axis y has 12: 6 at most")
    assert [problem.key for problem in spec.value.problems] == ["synthetic.modes"]
    with pytest.raises(SpecError) as spec:
        build(FNOOptions(modes=(12,)), tiny_context(tiny_layout(12, boundary="zero-gradient")))
    assert str(spec.value).endswith(
        "12 modes need 23 or more cells, and axis x has 18, 6 of them beyond its sides: 9 at most"
    )
    with pytest.raises(SpecError) as spec:
        build(FNOOptions(modes=(2, 2)), tiny_context(tiny_layout(16)))
    assert str(spec.value).endswith(
        "modes has 2 numbers, and the data 1 axes (x): give one number for all axes or one for each"
    )
    with pytest.raises(ValueError, match=r"modes is one number for all axes or one for each, e.g. \[12\] or \[12, 8\]"):
        FNOOptions(modes=())


def test_a_run_is_exported_and_loaded(run_spec: RunSpec, builtin_registry: Registry, tmp_path: Path) -> None:
    builtin_registry.register(hyco_engine_fno, distribution="hyco-engine-fno", version="0.1.0")
    synthetic = {"kind": "fno", "modes": [3], "width": 4, "layers": 1}
    result = run_spec({"synthetic": synthetic}, registry=builtin_registry)
    assert result.summary["status"] == "completed"
    made = export(result.folder, tmp_path / "fno.pt2", steps=3, registry=builtin_registry)
    assert made["difference"] <= 1e-6
    state = torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(0))
    surrogate = hyco.load_surrogate(result.folder, registry=builtin_registry)
    program = torch.export.load(tmp_path / "fno.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(state)[:, 0], surrogate(state), rtol=0, atol=1e-6)


def test_the_hook_module_is_light() -> None:
    code = "import sys, hyco_engine_fno; hyco_engine_fno.hyco_models(); assert not {'torch', 'phi'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
