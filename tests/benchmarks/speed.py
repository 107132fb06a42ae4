"""The engine's physics beside the same schemes in JAX and in hand-written C++: ratios of processor time, one thread.

    python tests/benchmarks/speed.py [--json] [--quick] [--case NAME]...

Each case rolls out ten steps of one equation from 32 states, forward, and forward with the gradient of the mean square
by the parameter. The engine's model runs as `compile = "inductor"`, except where inductor cannot compile it. JAX runs
the same scheme, written by hand with `jnp.roll` or `jnp.fft`, as one jitted `lax.scan`. C++ runs the forward scheme as
loops over padded rows, by g++ -O3 -march=native; it has no pseudo-spectral case, which a library of transforms would
decide. All ways are timed in turn, several times over; a ratio is the median over rounds, and above 1 the engine is
faster. Results are compared before anything is timed. The last line is one JSON object:
{case: {`forward`, `forward_backward`: {`jax`, `cpp`}, `execution`}}.

It needs JAX beside the engine: `tox -e speed`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# before JAX is imported, which reads them once
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import attrs
import jax
import jax.numpy as jnp
import numpy as np
import torch

from hyco_engine.builtin.models.burgers import Burgers
from hyco_engine.builtin.models.gray_scott import GrayScott
from hyco_engine.builtin.models.navier_stokes import NavierStokes
from hyco_engine.builtin.models.options_physical import BurgersOptions, GrayScottOptions, NavierStokesOptions
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import BuildContext
from hyco_engine.physics.model import DeclaredModel, FlowModel, TorchModel
from hyco_engine.physics.settings import ParameterSetting
from hyco_engine.physics.spectral import Spectrum
from hyco_engine.rollout import rollout

BATCH, HORIZON = 32, 10
Array = Any
Step = Callable[[Array, Array], Array]

# --- the schemes in JAX ---


def first(u: Array, dx: float, axis: int) -> Array:
    near = jnp.roll(u, -1, axis) - jnp.roll(u, 1, axis)
    return near * (2 / 3 / dx) - (jnp.roll(u, -2, axis) - jnp.roll(u, 2, axis)) * (1 / 12 / dx)


def second(u: Array, dx: float, axis: int) -> Array:
    near = jnp.roll(u, -1, axis) + jnp.roll(u, 1, axis)
    far = jnp.roll(u, -2, axis) + jnp.roll(u, 2, axis)
    return near * (4 / 3 / dx**2) - far * (1 / 12 / dx**2) - u * (2.5 / dx**2)


def runge_kutta(rate: Callable[[Array], Array], u: Array, dt: float) -> Array:
    k1 = rate(u)
    k2 = rate(u + dt / 2 * k1)
    k3 = rate(u + dt / 2 * k2)
    k4 = rate(u + dt * k3)
    return u + dt / 6 * (k1 + 2 * (k2 + k3) + k4)


def burgers_1d(dx: float, dt: float) -> Step:
    def step(u: Array, nu: Array) -> Array:
        def rate(v: Array) -> Array:
            return nu * second(v, dx, -1) - (v * first(v, dx, -1) + first(v * v, dx, -1)) / 3

        return runge_kutta(rate, u, dt)

    return step


def burgers_2d(dx: float, dt: float) -> Step:
    def step(u: Array, nu: Array) -> Array:
        def rate(v: Array) -> Array:
            p, q = v[:, 0], v[:, 1]
            along_p = (p * first(p, dx, -2) + first(p * p, dx, -2)) / 3 + q * first(p, dx, -1)
            along_q = p * first(q, dx, -2) + (q * first(q, dx, -1) + first(q * q, dx, -1)) / 3
            return nu * (second(v, dx, -1) + second(v, dx, -2)) - jnp.stack([along_p, along_q], 1)

        return runge_kutta(rate, u, dt)

    return step


def gray_scott(dx: float, dt: float) -> Step:
    def laplacian(u: Array) -> Array:
        parts = [jnp.roll(u, 1, axis) + jnp.roll(u, -1, axis) - 2 * u for axis in (-2, -1)]
        return (parts[0] + parts[1]) / dx**2

    def step(state: Array, f: Array) -> Array:
        u, v = state[:, 0], state[:, 1]
        reaction = u * v * v
        rates = [
            DU * laplacian(u) - reaction + f * (1 - u),
            DV * laplacian(v) + reaction - (f + K) * v,
        ]
        return state + dt * jnp.stack(rates, 1)

    return step


DU, DV, K = 0.2, 0.1, 0.055


def navier_stokes(dx: float, dt: float) -> Step:
    cells = CASES["navier_stokes"].cells
    box = Spectrum(grid_of(CASES["navier_stokes"]), torch.zeros(()))
    square, resolved = jnp.asarray(box.square.numpy()), jnp.asarray(box.resolved.numpy())
    kx, ky = (jnp.asarray(wave.numpy()) for wave in box.waves)
    inverse_square = 1 / jnp.where(kx**2 + ky**2 == 0, 1.0, kx**2 + ky**2)

    def project(u: Array) -> Array:
        pressure = (kx * u[:, 0] + ky * u[:, 1]) * inverse_square
        return jnp.stack([u[:, 0] - kx * pressure, u[:, 1] - ky * pressure], 1)

    def slope(u: Array) -> Array:
        kept = u * resolved
        vorticity = 1j * kx * kept[:, 1] - 1j * ky * kept[:, 0]
        values = jnp.fft.irfft2(jnp.stack([kept[:, 0], kept[:, 1], vorticity], 1), s=(cells, cells))
        ux, uy, turn = values[:, 0], values[:, 1], values[:, 2]
        return project(jnp.fft.rfft2(jnp.stack([uy * turn, -ux * turn], 1)) * resolved)

    def step(state: Array, nu: Array) -> Array:
        half = jnp.exp(-nu * square * (dt / 2))
        u = project(jnp.fft.rfft2(state))
        k1 = slope(u)
        k2 = slope(half * (u + dt / 2 * k1))
        k3 = slope(half * u + dt / 2 * k2)
        k4 = slope(half * (half * u + dt * k3))
        new = half * (half * (u + dt / 6 * k1) + dt / 3 * (k2 + k3)) + dt / 6 * k4
        return jnp.fft.irfft2(new, s=(cells, cells))

    return step


# --- the schemes in C++ ---

CPP = r"""
#include <vector>
#include <cstring>
typedef float real;
static inline real d1(const real* p, int s, real c) { return ((p[s] - p[-s]) * 8 - (p[2*s] - p[-2*s])) * c; }
static inline real d2(const real* p, int s, real c) {
    return ((p[s] + p[-s]) * 16 - (p[2*s] + p[-2*s]) - 30 * p[0]) * c;
}

// Each sample has rows with `halo` cells beyond each end; the state of a stage is copied there with its neighbours.
static const int halo = 2;

static void pad(const real* u, real* p, int rows, int n, int wide_rows) {
    int width = n + 2 * halo, first = wide_rows ? halo : 0;
    for (int y = 0; y < rows; ++y) {
        real* row = p + (y + first) * width;
        std::memcpy(row + halo, u + y * n, n * sizeof(real));
        for (int h = 0; h < halo; ++h) { row[h] = u[y*n + n - halo + h]; row[halo + n + h] = u[y*n + h]; }
    }
    for (int h = 0; h < first; ++h) {
        std::memcpy(p + h * width, p + (rows + h) * width, width * sizeof(real));
        std::memcpy(p + (first + rows + h) * width, p + (first + h) * width, width * sizeof(real));
    }
}

template <class Rate> static void runge_kutta(real* u, int size, real dt, const Rate& rate) {
    std::vector<real> k(size), now(u, u + size), sum(size);
    const real ahead[4] = {dt / 2, dt / 2, dt, 0}, weight[4] = {dt / 6, dt / 3, dt / 3, dt / 6};
    for (int stage = 0; stage < 4; ++stage) {
        rate(now.data(), k.data());
        for (int i = 0; i < size; ++i) { sum[i] = (stage ? sum[i] : 0) + weight[stage] * k[i]; }
        for (int i = 0; i < size; ++i) now[i] = u[i] + ahead[stage] * k[i];
    }
    for (int i = 0; i < size; ++i) u[i] += sum[i];
}

extern "C" void burgers1d(real* out, const real* state, int batch, int steps, int n, real dx, real dt, real nu) {
    real c1 = 1 / (12 * dx), c2 = nu / (12 * dx * dx);
    std::vector<real> p(n + 4), s(n + 4), u(n);
    for (int b = 0; b < batch; ++b) {
        std::memcpy(u.data(), state + b * n, n * sizeof(real));
        for (int t = 0; t < steps; ++t) {
            runge_kutta(u.data(), n, dt, [&](const real* v, real* k) {
                pad(v, p.data(), 1, n, 0);
                for (int i = 0; i < n + 4; ++i) s[i] = p[i] * p[i];
                const real *q = p.data() + halo, *r = s.data() + halo;
                for (int i = 0; i < n; ++i)
                    k[i] = d2(q + i, 1, c2) - (q[i] * d1(q + i, 1, c1) + d1(r + i, 1, c1)) * (real)(1.0 / 3);
            });
            std::memcpy(out + (b * steps + t) * n, u.data(), n * sizeof(real));
        }
    }
}

extern "C" void burgers2d(real* out, const real* state, int batch, int steps, int n, real dx, real dt, real nu) {
    real c1 = 1 / (12 * dx), c2 = nu / (12 * dx * dx), third = 1.0 / 3;
    int w = n + 4, cells = n * n;
    std::vector<real> p(w * w), q(w * w), pp(w * w), qq(w * w), u(2 * cells);
    for (int b = 0; b < batch; ++b) {
        std::memcpy(u.data(), state + b * 2 * cells, 2 * cells * sizeof(real));
        for (int t = 0; t < steps; ++t) {
            runge_kutta(u.data(), 2 * cells, dt, [&](const real* v, real* k) {
                pad(v, p.data(), n, n, 1);
                pad(v + cells, q.data(), n, n, 1);
                for (int i = 0; i < w * w; ++i) { pp[i] = p[i] * p[i]; qq[i] = q[i] * q[i]; }
                for (int y = 0; y < n; ++y) {
                    int at = (y + halo) * w + halo;
                    const real *a = p.data() + at, *c = q.data() + at, *aa = pp.data() + at, *cc = qq.data() + at;
                    real *ka = k + y * n, *kc = k + cells + y * n;
                    for (int i = 0; i < n; ++i) {
                        real x = a[i], z = c[i];
                        ka[i] = d2(a + i, 1, c2) + d2(a + i, w, c2)
                            - (x * d1(a + i, w, c1) + d1(aa + i, w, c1)) * third - z * d1(a + i, 1, c1);
                        kc[i] = d2(c + i, 1, c2) + d2(c + i, w, c2)
                            - (z * d1(c + i, 1, c1) + d1(cc + i, 1, c1)) * third - x * d1(c + i, w, c1);
                    }
                }
            });
            std::memcpy(out + (b * steps + t) * 2 * cells, u.data(), 2 * cells * sizeof(real));
        }
    }
}

extern "C" void gray_scott(real* out, const real* state, int batch, int steps, int n, real dx, real dt, real f) {
    const real du = DU / (dx * dx), dv = DV / (dx * dx), gone = f + (real)(KILL);
    int w = n + 4, cells = n * n;
    std::vector<real> p(w * w), q(w * w), u(2 * cells);
    for (int b = 0; b < batch; ++b) {
        std::memcpy(u.data(), state + b * 2 * cells, 2 * cells * sizeof(real));
        for (int t = 0; t < steps; ++t) {
            pad(u.data(), p.data(), n, n, 1);
            pad(u.data() + cells, q.data(), n, n, 1);
            for (int y = 0; y < n; ++y) {
                const real *a = p.data() + (y + halo) * w + halo, *c = q.data() + (y + halo) * w + halo;
                real *ua = u.data() + y * n, *uc = u.data() + cells + y * n;
                for (int i = 0; i < n; ++i) {
                    real reaction = a[i] * c[i] * c[i];
                    real la = a[i-1] + a[i+1] + a[i-w] + a[i+w] - 4 * a[i];
                    real lc = c[i-1] + c[i+1] + c[i-w] + c[i+w] - 4 * c[i];
                    ua[i] = a[i] + dt * (du * la - reaction + f * (1 - a[i]));
                    uc[i] = c[i] + dt * (dv * lc + reaction - gone * c[i]);
                }
            }
            std::memcpy(out + (b * steps + t) * 2 * cells, u.data(), 2 * cells * sizeof(real));
        }
    }
}
"""
"""Functions `(out, state, batch, steps, cells along an axis, dx, dt, parameter)`."""


def compiled_cpp(folder: Path) -> ctypes.CDLL:
    source, library = folder / "speed.cpp", folder / "speed.so"
    source.write_text(CPP.replace("DU", f"{DU}f").replace("DV", f"{DV}f").replace("KILL", str(K)), encoding="utf-8")
    subprocess.run(["g++", "-O3", "-march=native", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


# --- cases ---


@attrs.frozen(kw_only=True)
class Case:
    cells: int
    dims: int
    length: float
    dt: float
    parameter: str
    value: float
    fields: Mapping[str, bool]
    """The dynamic fields, and whether each is a vector."""
    model: Callable[[BuildContext], DeclaredModel]
    jax: Callable[[float, float], Step]
    fixed: Mapping[str, float] = attrs.Factory(dict)


CASES = {
    "burgers1d": Case(
        cells=128, dims=1, length=100.0, dt=0.1, parameter="nu", value=0.3, fields={"u": False},
        model=lambda context: FlowModel(Burgers(BurgersOptions()), context), jax=burgers_1d,
    ),
    "burgers2d": Case(
        cells=64, dims=2, length=64.0, dt=0.1, parameter="nu", value=0.3, fields={"u": True},
        model=lambda context: FlowModel(Burgers(BurgersOptions()), context), jax=burgers_2d,
    ),
    "gray_scott": Case(
        cells=64, dims=2, length=64.0, dt=1.0, parameter="f", value=0.03, fields={"u": False, "v": False},
        model=lambda context: FlowModel(GrayScott(GrayScottOptions()), context), jax=gray_scott,
        fixed={"Du": DU, "Dv": DV, "k": K},
    ),
    "navier_stokes": Case(
        cells=64, dims=2, length=1.0, dt=0.01, parameter="nu", value=0.01, fields={"u": True},
        model=lambda context: TorchModel(NavierStokes(NavierStokesOptions(), context.layout.grid), context),  # type: ignore[union-attr]
        jax=navier_stokes,
    ),
}  # fmt: skip


def grid_of(case: Case) -> Grid:
    return Grid(
        axes=("x", "y")[: case.dims],
        resolution=(case.cells,) * case.dims,
        lower=(0.0,) * case.dims,
        upper=(case.length,) * case.dims,
    )


def engine_model(case: Case) -> DeclaredModel:
    grid = grid_of(case)
    boundary = Boundary.parse("periodic", grid.axes)
    components = {name: grid.axes if vector and case.dims > 1 else () for name, vector in case.fields.items()}
    layout = StateLayout(
        grid=grid,
        dynamic=tuple(FieldInfo(name=name, components=own, boundary=boundary) for name, own in components.items()),
    )
    fixed = {name: ParameterSetting(init=value, learn=False) for name, value in case.fixed.items()}
    # spectra are complex, which inductor does not compile
    compile = "graph" if case.model is CASES["navier_stokes"].model else "inductor"
    return case.model(
        BuildContext(
            seed=0,
            registry=Registry(),
            layout=layout,
            dt=case.dt,
            inner_dt=case.dt,
            compile=compile,  # type: ignore[arg-type]
            parameters={case.parameter: ParameterSetting(init=case.value), **fixed},
        )
    )


def ways_of(name: str, case: Case, cpp: ctypes.CDLL) -> tuple[dict[str, Callable[[], Any]], str]:
    """Return what is timed, after a comparison of all results, and how the engine's step runs."""
    model, dx = engine_model(case), case.length / case.cells
    state = model.initial_states(BATCH, torch.Generator().manual_seed(0))
    array = np.ascontiguousarray(state.numpy())

    def engine() -> torch.Tensor:
        with torch.no_grad():
            return rollout(model, state, HORIZON)

    def engine_gradient() -> float:
        model.zero_grad(set_to_none=True)
        rollout(model, state, HORIZON).square().mean().backward()
        return float(next(p.grad for p in model.parameters() if p.grad is not None))

    advance = case.jax(dx, case.dt)

    def rolled(value: Array, start: Array) -> Array:
        def body(now: Array, _: None) -> tuple[Array, Array]:
            new = advance(now, value)
            return new, new

        return jax.lax.scan(body, start, None, length=HORIZON)[1]

    forward = jax.jit(rolled)
    gradient = jax.jit(jax.grad(lambda value, start: jnp.mean(rolled(value, start) ** 2)))
    value, start = jnp.float32(case.value), jnp.asarray(array)
    ways: dict[str, Callable[[], Any]] = {
        "engine": engine,
        "jax": lambda: forward(value, start).block_until_ready(),
        "engine gradient": engine_gradient,
        "jax gradient": lambda: gradient(value, start).block_until_ready(),
    }
    expected = engine().numpy()
    _compare(name, "JAX", expected, np.asarray(ways["jax"]()).swapaxes(0, 1))
    if hasattr(cpp, name):
        out = np.empty(expected.shape, np.float32)
        run = getattr(cpp, name)
        block = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
        run.argtypes = [block, block, *[ctypes.c_int] * 3, *[ctypes.c_float] * 3]
        ways["cpp"] = lambda: run(out, array, BATCH, HORIZON, case.cells, dx, case.dt, case.value)
        ways["cpp"]()
        _compare(name, "C++", expected, out)
    _compare_gradient(name, model, engine_gradient(), float(ways["jax gradient"]()))
    return ways, model.execution[0]


def _compare(name: str, other: str, ours: Any, theirs: Any) -> None:
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    if not difference < 1e-4:
        sys.exit(f"{name}: {other} runs another scheme: it differs by {difference:.2g}")


def _compare_gradient(name: str, model: DeclaredModel, ours: float, theirs: float) -> None:
    """Compare gradients by the parameter; the engine's is by the raw number from which the parameter comes."""
    raw = next(iter(model.learnables.raw.values())).detach().requires_grad_()
    learned = model.learnables.learned[0]
    value = model.learnables.values({learned: raw})[learned]
    (chain,) = torch.autograd.grad(value.sum(), raw)
    if not abs(ours - float(chain) * theirs) <= 1e-2 * abs(ours):
        sys.exit(f"{name}: the gradients differ: {ours:.6g} and {float(chain) * theirs:.6g}")


def measure(name: str, case: Case, cpp: ctypes.CDLL, seconds: float, rounds: int) -> dict[str, Any]:
    ways, execution = ways_of(name, case, cpp)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start, count = time.process_time(), 0
            while time.process_time() - start < seconds or not count:
                run()
                count += 1
            times[way].append((time.process_time() - start) / count)

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

    found: dict[str, Any] = {
        "forward": {"jax": ratio("jax", "engine")},
        "forward_backward": {"jax": ratio("jax gradient", "engine gradient")},
        "execution": execution,
        "engine_ms": {way: 1e3 * statistics.median(times[way]) for way in ("engine", "engine gradient")},
    }
    if "cpp" in ways:
        found["forward"]["cpp"] = ratio("cpp", "engine")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object alone")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--case", action="append", default=[], choices=list(CASES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    seconds, rounds = (0.1, 3) if given.quick else (0.5, 9)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        cpp = compiled_cpp(Path(folder))
        for name, case in CASES.items():
            if given.case and name not in given.case:
                continue
            found[name] = measure(name, case, cpp, seconds, rounds)
            if not given.json:
                print(name, json.dumps(found[name]), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
