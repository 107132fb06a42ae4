"""The conversion of a source's fields to other units."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, grid, numbered, scalar
from messages import error_naming

import hyco_engine as hyco
from hyco_engine.data.contracts import Points
from hyco_engine.data.conversion import converted
from hyco_engine.data.fields import Boundary, FieldInfo, StateLayout
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import Mask, Observe, Scale
from hyco_engine.errors import DataError, HycoError, SpecError
from hyco_engine.interfaces import Batch, Samples, SampleSource, Trajectory
from hyco_engine.testing.sources import SamplesContract, TrajectoryContract
from hyco_engine.testing.specs import merged

SCALES = {"u": 1e-3, "k": Scale(factor=-2.0, offset=5.0)}


def source() -> ListSource:
    """Two dynamic fields and one static one, with values that show their place."""
    fields = [scalar("u", boundary=2.0), scalar("v")]
    layout = StateLayout(grid=grid(5), dynamic=tuple(fields), static=(scalar("k", boundary="zero-gradient"),))
    return ListSource(trajectories=[numbered(6, i, n_dynamic=2, n_static=1) for i in range(3)], layout=layout)


def test_a_source_whose_units_are_kept_is_the_source_itself() -> None:
    mine = source()
    assert converted(mine, choice()) is mine


def test_named_fields_are_converted_in_float64_and_the_others_kept() -> None:
    mine, there = source(), converted(source(), choice(scale=SCALES, units={"u": "m"}))
    old, new = mine.load(2), there.load(2)
    torch.testing.assert_close(new.dynamic[:, 0], old.dynamic[:, 0].double() * 1e-3, rtol=0, atol=0)
    torch.testing.assert_close(new.dynamic[:, 1], old.dynamic[:, 1].double(), rtol=0, atol=0)
    torch.testing.assert_close(new.static, 5 - 2 * old.static.double(), rtol=0, atol=0)
    assert new.dynamic.dtype == torch.float64
    assert [field.unit for field in there.layout.fields] == ["m", "1", "1"]
    assert there.layout.dynamic[0].boundary.to_data() == {"x": {"lower": 0.002, "upper": 0.002}}
    assert there.layout.static[0].boundary == mine.layout.static[0].boundary


def in_unit(unit: str) -> ListSource:
    """One field `u`, of the boundary value 32."""
    layout = StateLayout(grid=grid(5), dynamic=(attrs.evolve(scalar("u", boundary=32.0), unit=unit),))
    return ListSource(trajectories=[numbered(6, 0, n_dynamic=1, n_static=0)], layout=layout)


@pytest.mark.parametrize(
    ("own", "wanted", "factor", "offset"),
    [
        ("cm/s", "m/s", 0.01, 0.0),
        ("m s-1", "km/h", 3.6, 0.0),
        ("m2 s-1", "cm^2/s", 1e4, 0.0),
        ("degF", "degC", 5 / 9, -160 / 9),
        ("W/(m^2 K)", "mW/(cm^2 K)", 0.1, 0.0),
        ("%", "1", 0.01, 0.0),
        ("µm", "m", 1e-6, 0.0),
    ],
)
def test_a_unit_that_the_data_gives_is_converted(own: str, wanted: str, factor: float, offset: float) -> None:
    pytest.importorskip("pint")
    there = converted(in_unit(own), choice(units={"u": wanted}))
    old = in_unit(own).load(0).dynamic.double()
    torch.testing.assert_close(there.load(0).dynamic, factor * old + offset, rtol=1e-12, atol=1e-9)
    assert there.layout.dynamic[0].unit == wanted
    (pair,) = there.layout.dynamic[0].boundary.sides.values()
    assert pair[0].value == pytest.approx(factor * 32 + offset)
    named = converted(in_unit(own), choice(units={"u": wanted}, scale={"u": 2.0}))
    torch.testing.assert_close(named.load(0).dynamic, 2 * old, rtol=0, atol=0)


@pytest.mark.parametrize("unit", ["blah", "9**9**9**9", "(9**9)**9", "m9**9**9", "m" * 100, "__import__('os')", "[m]"])
def test_a_unit_that_is_none_names_the_key_for_a_conversion_by_hand(unit: str) -> None:
    pytest.importorskip("pint")
    with error_naming(DataError, repr(unit), "data.scale.u", key="data.units.u"):
        converted(in_unit(unit), choice(units={"u": "m"}))
    with error_naming(DataError, repr(unit), "data.scale.u", key="data.units.u"):
        converted(in_unit("m"), choice(units={"u": unit}))


def test_units_of_different_things_are_refused() -> None:
    pytest.importorskip("pint")
    with error_naming(DataError, "'s'", "'m'", "data.scale.u", key="data.units.u"):
        converted(in_unit("m"), choice(units={"u": "s"}))


def test_without_pint_the_message_names_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pint", None)
    with error_naming(DataError, "'cm'", "'m'", "hyco-engine[units]", key="data.units.u"):
        converted(in_unit("cm"), choice(units={"u": "m"}))


def test_a_boundary_of_vectors_is_converted_side_by_side() -> None:
    rule = {"x": {"lower": [1.0, 2.0], "upper": {"normal": 3.0, "tangential": "zero-gradient"}}, "y": "periodic"}
    field = FieldInfo(name="w", components=("x", "y"), boundary=Boundary.parse(rule, ("x", "y")))
    layout = StateLayout(grid=grid(2, 2), dynamic=(field,))
    mine = ListSource(trajectories=[Trajectory(dynamic=torch.ones(3, 2, 2, 2), static=torch.ones(0, 2, 2))])
    mine.layout = layout
    there = converted(mine, choice(scale={"w": Scale(factor=10.0, offset=1.0)}))
    assert there.layout.dynamic[0].boundary.to_data() == {
        "x": {"lower": [11.0, 21.0], "upper": {"normal": 31.0, "tangential": "zero-gradient"}},
        "y": {"lower": "periodic", "upper": "periodic"},
    }
    assert bool((there.load(0).dynamic == 11.0).all())


def test_padding_stays_zero() -> None:
    field = FieldInfo(
        name="w", components=("x", "y"), sampling="staggered", boundary=Boundary.parse("zero-gradient", ("x", "y"))
    )
    layout = StateLayout(grid=grid(3, 3), dynamic=(field,))
    mine = ListSource(
        trajectories=[Trajectory(dynamic=torch.zeros(2, 2, *layout.spatial), static=torch.zeros(0, *layout.spatial))],
        layout=layout,
    )
    found = converted(mine, choice(scale={"w": Scale(offset=1.0)})).load(0).dynamic
    assert float(found.sum()) == 2 * 2 * 4 * 3
    assert set(found.flatten().tolist()) == {0.0, 1.0}


def test_a_value_that_means_not_observed_is_that_of_the_source() -> None:
    mine = source()
    mine.trajectories[0].dynamic[1, 0, 3] = -999.0
    asked = choice(scale={"u": 1e-3}, observe=Observe(mask=Mask(value=-999.0)))
    manager = DataManager(converted(mine, asked), asked, None)
    found = manager.trajectories[0].dynamic
    assert found.isnan().nonzero().tolist() == [[1, 0, 3]]
    assert float(found[1, 0, 2]) == pytest.approx(1e-3 * float(mine.trajectories[0].dynamic[1, 0, 2]))


def test_observations_of_sensors_are_converted() -> None:
    points = Points(
        frame=torch.tensor([0.5], dtype=torch.float64),
        time=torch.tensor([0.25], dtype=torch.float64),
        position=torch.tensor([[0.3]], dtype=torch.float64),
        value=torch.tensor([[4.0, math.nan]], dtype=torch.float64),
        heldout=torch.tensor([False]),
    )

    @attrs.define
    class Sensors(ListSource):
        def points(self, index: int) -> Points:
            return points

    mine = Sensors(trajectories=source().trajectories, layout=source().layout)
    found = converted(mine, choice(scale={"u": 1e-3, "v": 2.0})).points(0)
    assert found is not None
    assert float(found.value[0, 0]) == 0.004
    assert bool(found.value[0, 1].isnan())
    assert found.position is points.position


def test_another_conversion_is_other_data() -> None:
    found = {
        converted(source(), choice(scale=scale)).fingerprint()
        for scale in ({"u": 1.0}, {"u": 2.0}, {"v": 2.0}, {"u": Scale(factor=2.0, offset=1.0)})
    }
    assert len(found) == 4


class Two(SampleSource):
    """Ten samples with the targets y and label."""

    class Rows(Samples):
        observed_share = 0.5

        def __len__(self) -> int:
            return 10

        def batch(self, indices: torch.Tensor) -> Batch:
            return {"x": indices.double()}, {"y": indices.double() + 1, "label": indices}

    def samples(self, split: str) -> Samples:
        return self.Rows()

    def fingerprint(self) -> str:
        return "two"


class TestConvertedTrajectories(TrajectoryContract):
    def make(self, context: Any) -> Any:
        return converted(source(), choice(scale=SCALES))

    def changed(self) -> Any:
        return converted(source(), choice(scale={"u": 1e-2}))


class TestConvertedSamples(SamplesContract):
    def make(self, context: Any) -> Any:
        return converted(Two(), choice(scale={"y": Scale(factor=3.0, offset=-1.0)}))


def test_targets_of_samples_are_converted() -> None:
    samples = converted(Two(), choice(scale={"y": Scale(factor=3.0, offset=-1.0)})).samples("train")
    inputs, targets = samples.batch(torch.tensor([0, 4]))
    assert inputs["x"].tolist() == [0.0, 4.0]
    assert targets["y"].tolist() == [2.0, 14.0]
    assert targets["label"].tolist() == [0, 4]
    assert samples.observed_share == 0.5


def test_mistakes_are_told() -> None:
    with error_naming(DataError, "'w'", "(its fields: u, v, k)", key="data.scale.w"):
        converted(source(), choice(scale={"w": 2.0}))
    with error_naming(DataError, "'w'", key="data.units.w"):
        converted(source(), choice(units={"w": "m"}))
    with error_naming(DataError, "'label'", key="data.scale.label"):
        converted(Two(), choice(scale={"label": 2.0})).samples("train")
    with error_naming(SpecError, "samples", key="data.units"):
        converted(Two(), choice(units={"y": "m"}))
    mine = source()
    mine.layout = StateLayout(grid=grid(5), dynamic=(scalar("u", boundary="antisymmetric"), scalar("v")))
    assert converted(mine, choice(scale={"u": 2.0})).layout == mine.layout
    with error_naming(DataError, "'antisymmetric'", "offset of 3", key="data.scale.u"):
        converted(mine, choice(scale={"u": Scale(offset=3.0)}))


@pytest.mark.parametrize("scale", [{"u": 0.0}, {"u": {"factor": 0}}])
def test_a_factor_of_zero_is_refused(scale: dict[str, Any]) -> None:
    with pytest.raises(HycoError, match="must not be 0, which would make all values equal"):
        hyco.Engine(merged({"data": {"scale": scale}}))


def test_a_file_in_other_units_gives_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millimetres in the file, metres in the spec: the physics finds the same viscosity."""
    monkeypatch.chdir(tmp_path)
    # powers of 2 keep every digit
    factor = 2.0**-10
    x = (np.arange(32) + 0.5) / 32
    u = np.stack([np.sin(2 * np.pi * x) * np.exp(-0.01 * (2 * np.pi) ** 2 * 0.02 * t) for t in range(12)])
    found = []
    for name, values, more in (("m", u, {}), ("mm", u / factor, {"scale": {"u": factor}, "units": {"u": "m"}})):
        np.save(f"{name}.npy", values)
        data = {"kind": "arrays", "path": f"{name}.npy", "axes": "tx", "dt": 0.02, "bounds": {"x": [0.0, 1.0]}}
        data |= {"boundary": "periodic", "split": {"by": "time"}, **more}
        spec = {"run": {"name": name, "cycles": 1}, "data": data, "physical": {"kind": "heat"}}
        result = hyco.run(spec)
        found.append(result.summary["parameters"]["kappa"]["final"])
    assert found[0] == found[1]
    assert found[0] == pytest.approx(0.01, rel=0.01)
