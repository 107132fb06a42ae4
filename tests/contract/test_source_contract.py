"""The built-in sources keep the public contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.builtin.sources import hyco_sources
from hyco_engine.interfaces import BuildContext, SampleSource, Trajectory, TrajectorySource
from hyco_engine.testing.contexts import tiny_layout
from hyco_engine.testing.sources import SamplesContract, TrajectoryContract
from hyco_engine.testing.specs import TINY, merged

pytestmark = pytest.mark.usefixtures("measured")


def source(**data: Any) -> Any:
    """Build the source as a run builds it."""
    engine = hyco.Engine(merged({"data": data}))
    return Assembler(engine.spec, engine.registry).source()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four simulations of Burgers' equation, noise in two formats, and what sensors saw of it."""
    folder = tmp_path_factory.mktemp("files")
    hyco.Engine(TINY).simulate(folder / "scene", "scene")
    hyco.Engine(TINY).simulate(folder / "well", "well")
    u = np.random.default_rng(0).normal(size=(4, 8, 16))
    np.save(folder / "u.npy", u)
    with h5py.File(folder / "burgers.hdf5", "w") as file:
        file["tensor"] = u.astype(np.float32)
        file["x-coordinate"] = ((np.arange(16) + 0.5) / 16).astype(np.float32)
        file["t-coordinate"] = (0.05 * np.arange(9)).astype(np.float32)
    np.save(folder / "u0.npy", u[0, 0])
    rows = [(0.05 * t, (s + 0.5) / 6, u[0, t, 2 * s]) for t in range(8) for s in range(6)]
    np.savetxt(folder / "seen.csv", rows, delimiter=",", header="t,x,u", comments="")
    return folder


class Files:
    """The files, for the classes below."""

    folder: Path

    @pytest.fixture(autouse=True)
    def _files(self, files: Path) -> None:
        self.folder = files


class TestSimulate(TrajectoryContract):
    def make(self, context: BuildContext) -> TrajectorySource:
        made: TrajectorySource = source(**TINY["data"])
        return made

    def changed(self) -> TrajectorySource:
        other: TrajectorySource = source(**TINY["data"] | {"truth": {"nu": 0.03}})
        return other


class TestArrays(Files, TrajectoryContract):
    def make(self, context: BuildContext) -> TrajectorySource:
        made: TrajectorySource = self.read("u.npy")
        return made

    def changed(self) -> TrajectorySource:
        np.save(self.folder / "other.npy", 2 * np.load(self.folder / "u.npy"))
        other: TrajectorySource = self.read("other.npy")
        return other

    def read(self, name: str) -> Any:
        where = {"bounds": {"x": [0.0, 1.0]}, "boundary": "periodic"}
        return source(kind="arrays", path=str(self.folder / name), axes="stx", dt=0.05, **where)


class TestScene(Files, TrajectoryContract):
    def make(self, context: BuildContext) -> TrajectorySource:
        made: TrajectorySource = source(kind="scene", path=str(self.folder / "scene"), dt=0.02)
        return made


class TestWell(Files, TrajectoryContract):
    def make(self, context: BuildContext) -> TrajectorySource:
        made: TrajectorySource = source(kind="well", path=str(self.folder / "well"))
        return made


class TestPdebench(Files, TrajectoryContract):
    def make(self, context: BuildContext) -> TrajectorySource:
        made: TrajectorySource = source(kind="pdebench", path=str(self.folder / "burgers.hdf5"), boundary="periodic")
        return made


class TestPoints(Files, TrajectoryContract):
    def make(self, context: BuildContext) -> TrajectorySource:
        made: TrajectorySource = source(
            kind="points",
            path=str(self.folder / "seen.csv"),
            resolution={"x": 16},
            bounds={"x": [0.0, 1.0]},
            boundary="periodic",
            dt=0.05,
            initial={"u": {"file": str(self.folder / "u0.npy")}},
            split={"by": "sensor"},
        )
        return made


class TestPointSamples(Files, SamplesContract):
    def make(self, context: BuildContext) -> SampleSource:
        made: SampleSource = source(kind="points", path=str(self.folder / "seen.csv"))
        return made


def test_every_built_in_source_is_here() -> None:
    assert {record.kind for record in hyco_sources()} == {"simulate", "arrays", "points", "scene", "well", "pdebench"}


class Noise(TrajectorySource):
    """Keeps the contract; what a test breaks is in the classes below."""

    dt = 0.1
    num_simulations = 3

    def __init__(self) -> None:
        self.layout = tiny_layout(8)

    def fingerprint(self) -> str:
        return "noise"

    def load(self, index: int) -> Trajectory:
        generator = torch.Generator().manual_seed(index)
        return Trajectory(dynamic=torch.randn(6, 1, 8, generator=generator), static=torch.zeros(0, 8))


class Streaming(Noise):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def load(self, index: int) -> Trajectory:
        return Trajectory(dynamic=torch.randn(6, 1, 8, generator=self.generator), static=torch.zeros(0, 8))


class Global(Noise):
    def load(self, index: int) -> Trajectory:
        return Trajectory(dynamic=torch.randn(6, 1, 8), static=torch.zeros(0, 8))


class Lying(Noise):
    def frames(self, index: int) -> int:
        return 7


class Kept(Noise):
    def __init__(self) -> None:
        super().__init__()
        self.values = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(0))

    def load(self, index: int) -> Trajectory:
        return Trajectory(dynamic=self.values, static=torch.zeros(0, 8))


class Dated(Noise):
    count = 0

    def fingerprint(self) -> str:
        Dated.count += 1
        return f"noise {Dated.count}"


BROKEN: list[tuple[type[TrajectorySource], str, str]] = [
    (Streaming, "loading", r"load\(0\) gives other values when the simulations are loaded in another order"),
    (Global, "loading", "load draws from torch's global generator"),
    (Lying, "simulations_are_as", r"frames\(0\) is 7, but load\(0\) gives 6"),
    (Kept, "simulations_are_apart", "load returns a tensor that an earlier caller has changed"),
    (Dated, "the_fingerprint", "two sources of the same data have the fingerprints 'noise 1' and 'noise 2'"),
]


@pytest.mark.parametrize(("made", "test", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_the_contract_notices(made: type[TrajectorySource], test: str, message: str) -> None:
    contract = type("Broken", (TrajectoryContract,), {"make": lambda self, context: made()})()  # type: ignore[call-arg]
    (name,) = [name for name in dir(contract) if name.startswith(f"test_{test}")]
    with pytest.raises(AssertionError, match=message):
        getattr(contract, name)()


def test_other_data_needs_another_fingerprint() -> None:
    members = {"make": lambda self, context: Noise(), "changed": lambda self: Noise()}
    contract: Any = type("Broken", (TrajectoryContract,), members)()
    with pytest.raises(AssertionError, match="other data has the same fingerprint"):
        contract.test_the_fingerprint_is_the_datas()
