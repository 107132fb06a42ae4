"""Training inside another simulator, which hands over its states in memory and gets a parameter and a faster step.

    python docs/examples/embedding.py

The simulator below, a spectral solver of u_t + u u_x = nu u_xx in NumPy, does not depend on hyco-engine. The rest is
what a program needs that trains during its own run: its own source and a callback for progress. It needs no spec file,
and no state lies outside of these objects. The spec names the folders for runs and cache.
"""

import time

import numpy as np
import torch

import hyco_engine as hyco
from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.interfaces import Tracker, Trajectory, TrajectorySource

# --- the simulator ----------------------------------------------------------------------------------------------------


class Simulator:
    """Steps u [simulations, cells] by dt = 0.02 on a periodic unit interval."""

    cells, dt, nu, internal = 64, 0.02, 0.02, 100

    def __init__(self):
        self.k = 2 * np.pi * np.fft.rfftfreq(self.cells, 1 / self.cells)
        self.kept = self.k < 2 / 3 * self.k.max()

    def start(self, count, seed):
        waves = np.random.default_rng(seed).normal(size=(2, count, 4, 1)) / (1 + np.arange(4)[:, None])
        x = 2 * np.pi * (np.arange(self.cells) + 0.5) / self.cells * np.arange(1, 5)[:, None]
        return 0.7 * (waves[0] * np.sin(x) + waves[1] * np.cos(x)).sum(1)

    def rate(self, u):
        u_hat = np.fft.rfft(u)
        flux = np.fft.rfft(0.5 * u**2) * self.kept
        return np.fft.irfft(-1j * self.k * flux - self.nu * self.k**2 * u_hat, self.cells)

    def step(self, u):
        h = self.dt / self.internal
        for _ in range(self.internal):
            a = self.rate(u)
            b = self.rate(u + h / 2 * a)
            c = self.rate(u + h / 2 * b)
            u = u + h / 6 * (a + 2 * b + 2 * c + self.rate(u + h * c))
        return u

    def run(self, u, steps):
        frames = [u]
        for _ in range(steps):
            frames.append(self.step(frames[-1]))
        return np.stack(frames, 1)  # [simulations, frames, cells]


# --- its connection to hyco-engine ------------------------------------------------------------------------------------


class InMemory(TrajectorySource):
    """The simulator's own states as the engine's data."""

    dt = Simulator.dt

    def __init__(self, frames):
        self.values = torch.from_numpy(frames)
        self.num_simulations = len(frames)
        grid = Grid(axes=("x",), resolution=(Simulator.cells,), lower=(0.0,), upper=(1.0,))
        self.layout = StateLayout(
            grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse("periodic", ("x",))),)
        )

    @property
    def truth(self):
        return {"nu": torch.tensor(Simulator.nu, dtype=torch.float64)}  # only to report the error

    def fingerprint(self):
        return f"in memory {self.values.double().sum().item()!r}"

    def load(self, index):
        return Trajectory(dynamic=self.values[index][:, None], static=torch.zeros(0, Simulator.cells).double())


@hyco.options
class NoOptions:
    """`[data] kind = "in-memory"`, which has no options."""


class Log(Tracker):
    def phase_ended(self, record):
        if str(record["phase"]).startswith("train"):
            print(f"  cycle {record['cycle'] + 1}: {record['phase'].replace('_', ' ')}, {record['seconds']:.1f} s")


SPEC = {
    "run": {"name": "embedding", "cycles": 4},
    "data": {
        "kind": "in-memory",
        "name": "embedding",
        "num_predict_steps": 3,
        "split": {"train": "0:10", "val": "10:12", "test": "12:14"},
    },
    "physical": {"kind": "burgers", "parameters": {"nu": {"init": 0.05, "bounds": [1e-4, 1.0]}}},
    "synthetic": {"kind": "resnet"},
    "augmentation": {"kind": "count", "alpha": 0.1},
    "training": {
        "synthetic": {"epochs_per_cycle": 10, "lr": 2e-3, "schedule": "cosine"},
        "physical": {"epochs_per_cycle": 3},
    },
}


def main():
    simulator = Simulator()
    source = InMemory(simulator.run(simulator.start(14, seed=0), steps=30))

    registry = hyco.Registry.discover()  # a registry of this program alone; nothing global changes
    record = hyco.Record(
        kind="in-memory", summary="the host's states", options=NoOptions, factory=lambda options, context: source
    )
    registry.register(record, distribution="embedding", version="0", hook="hyco_sources")
    result = hyco.Engine(SPEC, registry=registry, callbacks=[Log()]).run()
    nu = result.summary["parameters"]["nu"]
    print(f"nu = {nu['final']:.5f} ± {nu['standard_error']:.1g}, the simulator's own is {Simulator.nu}")

    # from here on the simulator may step with the surrogate
    begin = simulator.start(64, seed=1)
    started = time.perf_counter()
    exact = simulator.run(begin, steps=30)[:, -1]
    between = time.perf_counter()
    state = torch.from_numpy(begin).float()[:, None]  # [batch, channels, cells]
    with torch.no_grad():
        for _ in range(30):
            state = result.synthetic(state)
    ended = time.perf_counter()
    error = np.linalg.norm(state[:, 0].numpy() - exact) / np.linalg.norm(exact)
    times = (between - started) / (ended - between)
    print(f"64 simulations, 30 steps: the surrogate is {times:.0f} times as fast and {100 * error:.1f} % off")
    print(f"open {result.folder / 'report.html'} in a browser")


if __name__ == "__main__":
    main()
