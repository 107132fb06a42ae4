"""Tables as people have them: forms of text, sensors that are places, times that begin far from 0."""

from __future__ import annotations

import codecs
import logging
import os
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hyco_engine as hyco
from hyco_engine.builtin.sources.options import PointsOptions
from hyco_engine.builtin.sources.point_table import Table
from hyco_engine.data.checks import warn_of_likely_gaps
from hyco_engine.data.csv_form import CsvForm
from hyco_engine.data.csv_table import read_csv
from hyco_engine.data.points import places_of
from hyco_engine.errors import HycoError
from hyco_engine.inspection import describe
from hyco_engine.interfaces import SourceContext


def table(path: Path, **keys: Any) -> Table:
    keys = {name: CsvForm(**value) if name == "csv" else value for name, value in keys.items()}
    return Table(PointsOptions(path=path, **keys), SourceContext(seed=0, registry=hyco.Registry()))


def saved(folder: Path, content: str | bytes, name: str = "seen.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(make: Any) -> str:
    with pytest.raises(HycoError) as caught:
        make()
    return str(caught.value)


ROWS = ((0.0, 0.25, 1.5), (0.5, 0.25, np.nan), (1.5, 0.75, -2000.0))
"""t, x and u of each form below; the second u was not observed."""


@pytest.mark.parametrize(
    ("content", "csv"),
    [
        ("t,x,u\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n", {}),
        ("t,x,u\n0,0.25,1.5,\n0.5,0.25,,\n1.5,0.75,-2000,\n", {}),
        ("t,x,u\r\n0,0.25,1.5\r\n0.5,0.25,NA\r\n1.5,0.75,-2e3\r\n", {}),
        ("t,x,u\r0,0.25,1.5\r0.5,0.25,-\r1.5,0.75,-2E+03\r", {}),
        (codecs.BOM_UTF8 + b"t,x,u\n0,0.25,1.5\n0.5,0.25,NaN\n1.5,0.75,-2.0D3\n", {}),
        ("t,x,u\n0,0.25,1.5\n0.5,0.25,#N/A\n1.5,0.75,−2000\n", {}),
        ("t;x;u\n0;0.25;1.5\n0.5;0.25;null\n1.5;0.75;-2000\n", {}),
        ("t;x;u\n0;0,25;1,5\n0,5;0,25;\n1,5;0,75;-2000\n", {}),
        ('t,x,u\n0,"0,25","1,5"\n"0,5","0,25",""\n"1,5","0,75",-2000\n', {}),
        ("t\tx\tu\n0\t0,25\t1,5\n0,5\t0,25\t\n1,5\t0,75\t-2000\n", {}),
        ("t|x|u\n0|0.25|1.5\n0.5|0.25|n/a\n1.5|0.75|-2000\n", {}),
        ("t  x    u\n0  0.25   1.5\n0.5 0.25 nan\n1.5 0.75 -2000\n", {}),
        ("sep=;\nt;x;u\n0;0.25;1.5\n0.5;0.25;--\n1.5;0.75;-2000\n", {}),
        ("# t,x,u\n0,0.25,1.5\n0.5,0.25,nan\n1.5,0.75,-2000\n", {}),
        ("% logger 7\n\n# made in May\nt, x, u\n# day 1\n0, 0.25, 1.5\n0.5, 0.25, \n\n1.5, 0.75, -2000\n", {}),
        ("t,x,u\ns,m,K\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n", {}),
        ("t [s],x (m),u [K]\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n", {}),
        ("t,x,u [°C]\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n".encode("latin-1"), {}),
        ("t,x,u\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n".encode("utf-16"), {}),
        ("t,x,u\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n".encode("utf-16-be"), {}),
        ("Time,x,u\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n", {}),
        ("timestamp,x,u\n2024-05-01 12:00,0.25,1.5\n2024-05-01T12:00:00.5,0.25,\n2024-05-01 12:00:01.5,0.75,-2e3", {}),
        ("t;x;u\n2024-05-01T12:00Z;0,25;1,5\n2024-05-01T14:00:00.5+02;0,25;\n2024-05-01T12:00:01.5Z;0,75;-2000\n", {}),
        ("t;x;u\n01.05.2024 12:00:00,0;0,25;1,5\n01.05.2024 12:00:00,5;0,25;\n01.05.2024 12:00:01,5;0,75;-2000\n",
         {"time_format": "%d.%m.%Y %H:%M:%S,%f"}),
        ("station 7\nnorth,wall\nt,x,u\n0,0.25,1.5\n0.5,0.25,\n1.5,0.75,-2000\n", {"skip": 2}),
        ("t,x,u\n0,0.25,1.5\n0.5,0.25,off\n1.5,0.75,-2000\n", {"missing": ("off",)}),
        ("t,x,u\n0,0.25,1.5\n0.5,0.25,inf\n1.5,0.75,-2000\n", {"missing": ("inf",)}),
        ("t:x:u\n0:0.25:1.5\n0.5:0.25:\n1.5:0.75:-2000\n", {"separator": ":"}),
    ],
)  # fmt: skip
def test_each_form_gives_the_same(tmp_path: Path, content: str | bytes, csv: dict[str, Any]) -> None:
    read = table(saved(tmp_path, content), csv=csv, dt=0.5)
    (points,) = read.simulations
    found = torch.column_stack([points.time, points.position, points.value])
    torch.testing.assert_close(found, torch.tensor(ROWS, dtype=torch.float64), rtol=0, atol=1e-12, equal_nan=True)
    assert list(read.components) == ["u"]


@pytest.mark.parametrize(
    ("content", "csv", "message"),
    [
        (
            "t,x,u\n0,0.25,1.5\n0.5,0.25,off\n",
            {},
            "data.csv.missing: FILE: line 3, column 'u': 'off' is no number; if it means \"not observed\", set "
            'data.csv.missing = ["off"]',
        ),
        (
            "# logger\n\nt,x,u\n0,0.25,inf\n",
            {},
            "data.csv.missing: FILE: line 4, column 'u': 'inf' is not finite; if it means \"not observed\", set "
            'data.csv.missing = ["inf"]',
        ),
        (
            "t;x;u\n0;1,250;7\n",
            {},
            "data.csv.decimal: FILE: line 2: '1,250' may be 1.250 or 1250; data.csv.decimal says which sign is the "
            "decimal one",
        ),
        (
            "t;x;u\n0;0.5;7\n1;0,5;7\n",
            {},
            "data.csv.decimal: FILE: line 3, column 'x': '0,5' is no number; if the comma is the decimal sign, set "
            'data.csv.decimal = ","',
        ),
        (
            "t;x;u\n0;0,5;1.234,5\n",
            {},
            "data.path: FILE: line 2, column 'u': '1.234,5' is no number; write numbers without signs between their "
            "thousands",
        ),
        (
            "t,x,u\n0,5,1,5,2,5\n",
            {},
            "data.csv.separator: FILE: line 2 has 6 entries, and the first line of the table has 3; data.csv.separator "
            "says what separates them (here ','), and data.csv.skip how many lines precede the table",
        ),
        (
            "t,x,u\n2024-05-01,0.5,1\n1.5.2024,0.5,1\n",
            {},
            "data.csv.time_format: FILE: line 3, column 't': '1.5.2024' is no date-time; data.csv.time_format says how "
            'they are written, such as "%d.%m.%Y %H:%M"',
        ),
        (
            "t,x,u\n1.5.2024,0.5,1\n",
            {},
            "data.csv.time_format: FILE: line 2, column 't': '1.5.2024' is no number; data.csv.time_format says how "
            'date-times are written, such as "%d.%m.%Y %H:%M"',
        ),
        (
            "t,x,u\n2024-05-01T00:00,0.5,1\n2024-05-01T00:00Z,0.5,1\n",
            {},
            "data.path: FILE: some date-times of the column 't' have a time zone and some have none",
        ),
        (
            "t,x,flag,u\n0,0.5,good,1\n",
            {},
            "data.columns: FILE: the column 'flag' holds text, such as 'good', and not numbers; an empty name in its "
            "place in data.columns leaves it out",
        ),
        (
            't,x,u\n0,0.5,1\n1,0.5,"1\n2,0.5,2\n',
            {},
            "data.path: FILE: line 3, column 'u': '1\\n2,0.5,2' is no number; a quotation mark before it is not closed",
        ),
        (
            "t;x;u\n0;0,5;1.234\n1;0,5;5.678\n",
            {},
            "data.path: FILE: line 2, column 'u': '1.234' is no number; write numbers without signs between their "
            "thousands",
        ),
        (
            "t,x,u\n2024-05-01T00:00:00.000000001,0.5,1\n",
            {},
            "data.path: FILE: line 2, column 't': '2024-05-01T00:00:00.000000001' is finer than a microsecond; write "
            "the times as numbers, of seconds since the first one",
        ),
        (
            "s,t,x,u\n0,0,0.5,1\nNA,1,0.5,1\n",
            {},
            "data.path: FILE: line 3 has nan in the column 's'; each row needs a time, a position and a simulation, "
            "and only fields may be NaN, where they were not observed",
        ),
        (
            "t,x,u\nNA,0.5,1\n",
            {"time_format": "%Y"},
            "data.path: FILE: line 2 has nan in the column 't'; each row needs a time, a position and a simulation, "
            "and only fields may be NaN, where they were not observed",
        ),
        (
            b"t,x,u\n0,0.5,\x00\x01\x02\n",
            {},
            "data.csv.encoding: FILE is no text in UTF-8, UTF-16 or Latin-1; data.csv.encoding names its encoding",
        ),
        (
            "t,x,u,u\n0,0.5,1,2\n",
            {},
            "data.columns: FILE has several columns 'u': name them in columns, and leave empty what is not read",
        ),
    ],
)
def test_what_is_not_clear_is_refused_with_the_key_that_decides(
    tmp_path: Path, content: str | bytes, csv: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path, content)
    assert refused(lambda: table(path, csv=csv)) == message.replace("FILE", str(path))


def test_a_first_row_that_names_a_sensor_is_no_header(tmp_path: Path) -> None:
    path = saved(tmp_path, "A,0,0.1,1\nA,1,0.1,2\nB,0,0.2,3\n")
    (points,) = table(path, columns=("sensor", "t", "x", "u")).simulations
    assert points.value[:, 0].tolist() == [1, 2, 3]


def test_numbers_may_be_names_in_a_header(tmp_path: Path) -> None:
    assert table(saved(tmp_path, "t,x,300\n0,0.1,1\n")).columns == ("300",)


def test_a_first_row_with_a_strange_entry_is_not_lost(tmp_path: Path) -> None:
    path = saved(tmp_path, "0,0.1,off\n1,0.1,2\n")
    columns = ("t", "x", "u")
    assert refused(lambda: table(path, columns=columns)) == (
        f"data.csv.missing: {path}: line 1, column 3: 'off' is no number; if it means \"not observed\", set "
        'data.csv.missing = ["off"]; if the line is a header, data.csv.skip leaves it out'
    )
    (points,) = table(path, columns=columns, csv={"missing": ("off",)}).simulations
    assert points.value[:, 0].isnan().tolist() == [True, False]
    (points,) = table(path, columns=columns, csv={"skip": 1}).simulations
    assert points.value[:, 0].tolist() == [2]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (("20240531", "20240601"), [0, 86400]),
        (("202405312359", "202406010000"), [0, 60]),
        (("20240531235959", "20240601000000"), [0, 1]),
    ],
)
def test_dates_without_signs_are_dates(tmp_path: Path, times: tuple[str, ...], seconds: list[float]) -> None:
    path = saved(tmp_path, "\n".join(["date,x,u", *(f"{t},0.5,1" for t in times)]))
    assert table(path).simulations[0].time.tolist() == seconds


@pytest.mark.parametrize(
    ("text", "csv"),
    [
        ("Date,Time,x,u\n2024-05-31,23:59:00,0.5,1\n2024-06-01,0:00:30,0.5,2\n", {}),
        ("x;Datum;Uhrzeit;u\n0,5;31.05.2024;23:59;1\n0,5;01.06.2024;00:00;2\n", {"time_format": "%d.%m.%Y %H:%M"}),
        ("t,clock,x,u\n05/31/2024,11:59 PM,0.5,1\n06/01/2024,12:00 AM,0.5,2\n", {"time_format": "%m/%d/%Y %I:%M %p"}),
    ],
)
def test_dates_and_times_of_the_day_in_two_columns_are_one(tmp_path: Path, text: str, csv: dict[str, Any]) -> None:
    (points,) = table(saved(tmp_path, text), csv=csv).simulations
    assert points.time.tolist() == ([0, 90] if not csv else [0, 60])
    assert points.value[:, 0].tolist() == [1, 2]


def test_a_format_of_days_alone_leaves_two_columns_apart(tmp_path: Path) -> None:
    path = saved(tmp_path, "day,clock,x,u\n31.05.2024,23:59,0.5,1\n01.06.2024,00:00,0.5,2\n")
    read = table(path, columns=("t", "", "x", "u"), csv={"time_format": "%d.%m.%Y"})
    assert read.simulations[0].time.tolist() == [0, 86400]


def test_numbers_that_are_no_dates_are_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path, "t,x,u\n19990000,0.5,1\n19990001,0.5,1\n")
    assert table(path, start=0.0).simulations[0].time.tolist() == [19990000, 19990001]


def test_units_of_times_and_places_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        path = saved(tmp_path, "t [h],x (mm),u [W/(m^2 K)]\n0,0,2\n")
        assert table(path).unit("u") == "W/(m^2 K)"
    told = "the numbers stay as they are, t in h, x in mm, and so must be dt and bounds"
    assert caplog.messages == [f"{path}: {told}"]
    path = saved(tmp_path, "t,x,y,v.x [m/s],v.y [cm/s]\n0,0,0,1,1\n")
    assert refused(lambda: table(path).unit("v")) == (
        f"data.columns: {path}: the components of 'v' are in cm/s and m/s; give all in one unit"
    )


def test_a_table_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyco_engine.untrusted.free_memory", lambda: 2.5e9)
    path = saved(tmp_path, "t,x,u\n0,0.5,1\n")
    with path.open("r+b") as file:
        file.truncate(10**8 + 1)
    assert refused(lambda: table(path)) == (
        f"data.path: cannot read {path}: it needs 2.5 GB of memory, but only 2.5 GB are free; a table saved as "
        ".parquet or .npy takes less"
    )


def test_text_is_read_of_regular_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "seen.csv"
    os.mkfifo(path)
    assert refused(lambda: read_csv(path)) == (
        f"data.path: cannot read {path}: it is a FIFO, and the engine reads regular files only"
    )


def test_long_entries_take_no_longer_than_their_length(tmp_path: Path) -> None:
    """One of 100 000 digits would take 10^10 steps in an expression that tries each split of it."""
    path = saved(tmp_path, f"t,x,u [{'(' * 100_000}\n0,0.5,{'1' * 100_000}x\n")
    assert refused(lambda: table(path)).startswith(f"data.columns: {path}: the column 'u [(((")


def test_what_was_found_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path, "time;x;u [K]\n2024-05-01T00:00;0,5;1\n2024-05-01T00:01;0,5;2\n".encode("utf-16"))
    with caplog.at_level(logging.INFO):
        assert table(path).units == {"u": "K"}
    assert caplog.messages[0] == (
        f"{path}: the encoding is UTF-16; the entries are separated by ';'; the decimal sign is a comma; the column "
        "'time' is the time t; t is counted in seconds since 2024-05-01T00:00:00"
    )


def test_parquet(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    moments = np.datetime64("2024-05-01T12:00") + (1000 * np.array([0, 0.5, 1.5])).astype("m8[ms]")
    columns = {"time": moments, "x": [0.25, 0.25, 0.75], "u": [1.5, None, -2000.0], "id": ["A", "A", "B"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (points,) = table(tmp_path / "a.parquet").simulations
    found = torch.column_stack([points.time, points.position, points.value])
    torch.testing.assert_close(found, torch.tensor(ROWS, dtype=torch.float64), rtol=0, atol=1e-12, equal_nan=True)
    assert describe(tmp_path / "a.parquet").tried.startswith("read as 1 simulation of 21 frames, ")
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    assert refused(lambda: table(tmp_path / "b.parquet")).startswith(
        f"data.path: cannot read {tmp_path / 'b.parquet'}: "
    )


def test_columns_of_parquet_that_are_no_plain_numbers(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def read(**columns: Any) -> Any:
        parquet.write_table(pyarrow.table({"t": [0.0, 1.0], "x": [0.5, 0.5], "u": [1, 2]} | columns), tmp_path / "a.pq")
        return table(tmp_path / "a.pq").simulations[0]

    assert read(u=[Decimal("1.5"), None]).value[:, 0].tolist()[0] == 1.5
    assert read(t=pyarrow.array([0, 500], pyarrow.duration("ms"))).time.tolist() == [0, 0.5]
    assert read(t=["2024-05-01T00:00", "2024-05-01T00:01"]).time.tolist() == [0, 60]
    assert refused(lambda: read(t=pyarrow.array([0, 1], pyarrow.time32("s")))).startswith(
        f"data.columns: {tmp_path / 'a.pq'}: the column 't' holds text, such as '00:00:00', and not numbers"
    )
    assert refused(lambda: read(u=[1.0, float("inf")])) == (
        f"data.path: {tmp_path / 'a.pq'}: row 1 has inf in the column 'u'; if it was not observed, write NaN instead"
    )


def test_parquet_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = saved(tmp_path, "", "a.parquet")
    assert refused(lambda: table(path)) == (
        f"data.path: {path}: parquet files need pyarrow: pip install 'hyco-engine[parquet]'"
    )


# --- columns as arrays ---


def test_an_array_for_each_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", t=np.arange(4.0), x=np.full((4, 1), 0.5), u=np.arange(4))
    (points,) = table(tmp_path / "a.npz").simulations
    assert points.time.tolist() == points.value[:, 0].tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "b.npz", t=np.arange(4.0), x=np.full(4, 0.5), u=np.arange(4), more=np.zeros((2, 2)))
    assert table(tmp_path / "b.npz", columns=("t", "x", "u")).columns == ("u",)
    assert refused(lambda: table(tmp_path / "b.npz")) == (
        f"data.array: {tmp_path / 'b.npz'} holds several arrays, t (4,), x (4,), u (4,), more (2, 2): name one of "
        "them, or in data.columns those that hold a column each"
    )


def test_arrays_that_are_no_plain_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"

    def read(**arrays: Any) -> Any:
        np.savez(path, **{"t": np.arange(2.0), "x": np.full(2, 0.5), "u": np.arange(2)} | arrays)
        return table(path).simulations[0]

    assert read(u=np.arange(2) + 0j).value[:, 0].tolist() == [0, 1]
    assert refused(lambda: read(u=np.arange(2) + 1j)) == (
        f"data.path: {path}: the array 'u' holds complex128, and a table of observations holds real numbers"
    )
    assert read(t=np.array(["2024-05-01", "2024-05-02"], "M8[s]")).time.tolist() == [0, 86400]
    assert refused(lambda: read(sensor=np.array(["A", "B"]))) == (
        f"data.path: {path}: the array 'sensor' cannot be used: it holds <U1, text, and the engine reads only numbers; "
        "number the sensors"
    )


# --- sensors ---


def sensors(read: Table) -> tuple[set[float], set[float]]:
    """Return the places that train, and those that validate."""
    (points,) = read.simulations
    x = points.position[:, 0]
    return set(x[~points.heldout].tolist()), set(x[points.heldout].tolist())


def test_rows_at_one_place_are_one_sensor(tmp_path: Path) -> None:
    """Eleven readings of each of ten loggers: whole loggers validate, and not some of the readings of each."""
    rows = [f"{t},{x / 10},{t + x}" for t in range(11) for x in range(10)]
    train, val = sensors(table(saved(tmp_path, "\n".join(["t,x,u", *rows]))))
    assert (len(train), len(val)) == (8, 2)
    assert not train & val


def test_places_that_differ_by_rounding_are_one() -> None:
    x = torch.tensor([0.3, 0.1, 0.1 * 3, 0.1 + 1e-12, 0.2], dtype=torch.float64)[:, None]
    assert places_of(x).tolist() == [0, 1, 0, 1, 2]
    y = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0], dtype=torch.float64)[:, None]
    assert places_of(torch.cat([x, y], dim=1)).tolist() == [0, 1, 2, 1, 3]
    assert places_of(x.float(), 1e-6).tolist() == [0, 1, 0, 1, 2]


def test_a_column_names_the_sensors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two loggers at one place, and one that moves."""
    rows = ["0,A,0.5,1", "0,B,0.5,1", "0,C,0.1,1", "1,A,0.5,2", "1,B,0.5,2", "1,C,0.2,2"]
    path = saved(tmp_path, "\n".join(["t,sensor,x,u", *rows]))
    (tmp_path / "train.csv").write_text("C\nA\n")
    read = table(path, train_sensors=tmp_path / "train.csv")
    assert read.simulations[0].heldout.tolist() == [False, True, False] * 2
    assert list(read.components) == ["u"]
    (tmp_path / "train.csv").write_text("AA\n")
    assert refused(lambda: table(path, train_sensors=tmp_path / "train.csv")) == (
        f"data.train_sensors: {tmp_path / 'train.csv'} names the sensor 'AA', which {path} does not have; did you mean "
        "'A'?"
    )
    numbers = np.array([[0, 7, 0.5, 1], [0, 123456789, 0.6, 1], [1, 7, 0.5, 2]])
    np.save(tmp_path / "a.npy", numbers)
    np.save(tmp_path / "train.npy", np.array([123456789]))
    named = table(tmp_path / "a.npy", columns=("t", "id", "x", "u"), train_sensors=tmp_path / "train.npy")
    assert named.simulations[0].heldout.tolist() == [True, False, True]


def engine_data(path: Path, **keys: Any) -> Any:
    from hyco_engine.assembly import Assembler

    data = {
        "kind": "points",
        "path": str(path),
        "resolution": {"x": 8},
        "boundary": 0.0,
        "dt": 0.5,
        "initial": {"u": 0.0},
        "split": {"by": "sensor"},
        "num_predict_steps": 2,
    }
    engine = hyco.Engine({"data": data | keys, "synthetic": {"kind": "resnet"}, "paths": {"cache": str(path.parent)}})
    task = Assembler(engine.spec, engine.registry).task()
    task.read()
    return task


def test_places_on_both_sides_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{t},{name},{x},1" for t in (0.5, 1.0) for name, x in (("A", 0.5), ("B", 0.5), ("C", 0.2))]
    path = saved(tmp_path, "\n".join(["t,sensor,x,u", *rows]))
    (tmp_path / "train.csv").write_text("C\nA\n")
    engine_data(path, train_sensors=str(tmp_path / "train.csv"))
    told = (
        "at 1 of the 1 places of sensors that validate, there are sensors that train as well: errors there say nothing "
        "about other places"
    )
    assert told in caplog.messages
    caplog.clear()
    engine_data(saved(tmp_path, "t,x,u\n0.5,0.5,1\n1,0.5,1\n0.5,0.2,1\n1,0.2,1\n", "b.csv"))
    assert told not in caplog.messages


# --- values that mean "not observed" ---


@pytest.mark.parametrize("mark", ["-9999", "1e20", "-999.9", "9.96921e+36", "-32768"])
def test_a_value_far_outside_that_repeats_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, mark: str) -> None:
    values = [mark if k % 5 == 0 else str(k / 10) for k in range(1, 20)]
    path = saved(tmp_path, "\n".join(["t,x,u", *(f"{0.1 * k},{0.1 * (k % 4)},{v}" for k, v in enumerate(values, 1))]))
    engine_data(path)
    told = (
        f"the field 'u' holds {float(mark):g} 3 times, far outside of its other values, 0.1 to 1.9: if it means that "
    )
    assert [message for message in caplog.messages if message.startswith(told)]
    caplog.clear()
    engine_data(path, observe={"mask": {"value": float(mark)}})
    assert not [message for message in caplog.messages if "far outside" in message]


@pytest.mark.parametrize(
    "values", [[0, 0, 0, 5, 5, 0], [9, 10, 9, 11, 9, 10], [-9999, 1, 2, 3, 4, 5], [0, 1, 2, 99, 1, 0]]
)
def test_other_values_far_outside_are_none(caplog: pytest.LogCaptureFixture, values: list[float]) -> None:
    warn_of_likely_gaps(torch.tensor(values, dtype=torch.float64), "u")
    assert caplog.messages == []


# --- the start ---


def test_times_since_1970_begin_with_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{1.7e9 + 0.25 * k},{0.1 * (k % 3)},1" for k in range(8)]
    path = saved(tmp_path, "\n".join(["t,x,u", *rows]))
    with caplog.at_level(logging.INFO):
        task = engine_data(path)
    assert task.manager.trajectories[0].dynamic.shape[0] == 5
    assert (
        f"{path}: the first frame of a simulation is at its first observation, t = 1700000000, since the times begin "
        "very far from 0; data.start sets another time"
    ) in caplog.messages
    assert table(path, dt=0.5, start=1.7e9 - 1).simulations[0].frame[0] == 2


def test_a_late_first_observation_is_late(tmp_path: Path) -> None:
    path = saved(tmp_path, "t,x,u\n1.0,0.5,1\n1.05,0.5,1\n")
    assert table(path, dt=0.05).simulations[0].time.tolist() == [1.0, 1.05]


def test_simulations_with_dates_begin_each_with_its_own(tmp_path: Path) -> None:
    rows = [
        "a,2024-05-01T00:00,0.5,1",
        "a,2024-05-01T00:01,0.5,1",
        "b,2024-06-01T08:00,0.5,1",
        "b,2024-06-01T08:02,0.5,1",
    ]
    read = table(saved(tmp_path, "\n".join(["s,t,x,u", *rows])))
    assert [points.time.tolist() for points in read.simulations] == [[0, 60], [0, 120]]


def test_a_start_after_the_first_observation_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "t,x,u\n1,0.5,1\n")
    assert refused(lambda: table(path, start=2.0)) == (
        f"data.start: {path}: an observation is at t = 1, before the first frame, which is at 2; data.start sets the "
        "time of the first frame"
    )


def test_rollouts_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyco_engine.builtin.sources import points

    monkeypatch.setattr(points, "free_memory", lambda: 10**6)
    path = saved(tmp_path, "t,x,u\n0,0.5,1\n1e5,0.5,1\n")
    assert refused(lambda: engine_data(path)) == (
        f"data.dt: {path}: up to its last observation, at 100000, a rollout has 200001 frames of 0.5, which take "
        "0.0128 GB, and 0.001 GB of memory are free; correct dt, or set data.start to the time of the first frame"
    )
