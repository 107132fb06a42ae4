"""The first figures: valid, light pictures, whatever is missing or diverged."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.report.figures import comparison_figure, history_figure

RNG = np.random.default_rng(0)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect all text of the figures that are saved."""
    seen: list[str] = []
    savefig = Figure.savefig

    def spy(figure: Figure, *args: Any, **kwargs: Any) -> None:
        savefig(figure, *args, **kwargs)
        seen.extend(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible())

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


@pytest.fixture(autouse=True)
def _global_state_is_untouched() -> Iterator[None]:
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before


def size_of(path: Path, most: int = 150_000) -> tuple[int, int]:
    """Width and height of a PNG file that is light enough."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"
    assert len(data) <= most
    width, height = struct.unpack(">II", data[16:24])
    return width, height


# --- history --------------------------------------------------------------------------------------------------------


def some_records(cycles: int = 2, players: tuple[str, ...] = ("synthetic", "physical")) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for cycle in range(cycles):
        for player in players:
            for epoch in range(3):
                done = 3 * cycle + epoch + 1
                record = {"cycle": cycle, "phase": f"train_{player}", "epoch": done, "step": 4 * done}
                record |= {"train/loss": 1.0 / done**2, "train/loss_real": 0.5 / done**2}
                if cycle:
                    record["train/loss_generated"] = 2.0 / done**2
                if player == "physical":
                    record["param/nu"] = 0.01 + 0.04 / done
                records.append(record)
            records.append({"cycle": cycle, "phase": f"train_{player}", "epoch": done, "val/nrmse": 0.5 / done})
    return records


def a_summary(**nu: Any) -> dict[str, Any]:
    entry = {"initial": 0.05, "final": 0.0167, "truth": 0.01, "relative_error": 0.67, "unit": "m²/s", **nu}
    return {"parameters": {"nu": entry}, "metrics": {"persistence": {"val": {"nrmse": 0.61}}}}


def test_history_tells_losses_errors_and_parameters(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "run" / "figures" / "history.png"
    assert history_figure(some_records(), a_summary(standard_error=0.001), path) == path
    assert size_of(path) == (968, 616)
    for expected in (
        "Training loss: surrogate",
        "Training loss: physics",
        "generated",
        "Error on held-out real data",
        "surrogate: 0.0833",
        "nothing changes: 0.61",
        "Parameter nu [m²/s]",
        "learned: 0.01667",
        "truth: 0.01 (67 % off)",
        "start: 0.05",
        "standard error: 0.001",
    ):
        assert expected in texts


def test_history_is_the_same_file_each_time(tmp_path: Path) -> None:
    first, second = (history_figure(some_records(), a_summary(), tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()


def test_history_of_one_model(tmp_path: Path, texts: list[str]) -> None:
    size_of(history_figure(some_records(players=("synthetic",)), {"parameters": {}}, tmp_path / "h.png"))
    assert "Training loss: surrogate" in texts
    assert "Training loss: physics" not in texts
    assert not any(text.startswith("nothing changes") for text in texts)


def test_history_draws_how_the_terms_of_a_loss_are_balanced(tmp_path: Path, texts: list[str]) -> None:
    records = some_records()
    for record in records:
        if record["phase"] == "train_synthetic" and "train/loss" in record:
            epoch = record["epoch"]
            record |= {"weight/u": 2.0 * epoch, "weight/p$": 1e-9 * epoch, "share/p$": 0.2, "share/u": 0.8}
        elif "train/loss" in record:
            # without shares there is nothing to draw
            record |= {"weight/u": 1.0}
    size_of(history_figure(records, a_summary(), tmp_path / "h.png"))
    assert "Balance of the loss: surrogate" in texts
    assert "Balance of the loss: physics" not in texts
    shown = [text for text in texts if text in ("u", r"p\$")]
    assert shown == ["u", r"p\$"]
    assert "weight / its first (dotted)" in texts


def test_history_without_truth(tmp_path: Path, texts: list[str]) -> None:
    summary = a_summary(truth=None, relative_error=None, unit="1")
    size_of(history_figure(some_records(), summary, tmp_path / "h.png"))
    assert "Parameter nu" in texts
    assert not any(text.startswith("truth") for text in texts)


@pytest.mark.parametrize("summary", [{}, {"status": "failed", "parameters": None, "metrics": None}])
def test_history_of_nothing(tmp_path: Path, texts: list[str], summary: dict[str, Any]) -> None:
    size_of(history_figure([], summary, tmp_path / "h.png"))
    assert "nothing was recorded" in texts


def test_history_of_one_epoch_and_of_a_diverged_model(tmp_path: Path, texts: list[str]) -> None:
    records = [
        {"cycle": 0, "phase": "train_synthetic", "epoch": 1, "train/loss": 0.0},
        {"cycle": 0, "phase": "train_synthetic", "epoch": 1, "val/nrmse": None},
        {"cycle": 0, "phase": "train_physical", "epoch": 1, "train/loss": None, "param/nu": None},
    ]
    size_of(history_figure(records, a_summary(final=None), tmp_path / "h.png"))
    assert "surrogate: not finite" in texts


def a_field(file: str | None) -> dict[str, Any]:
    return {"mean": 0.5, "min": 0.0, "max": 1.0, "file": file}


@pytest.mark.parametrize(("shape", "title"), [((16,), "truth"), ((8, 6), "Truth of D"), ((6, 5, 4), "Truth of D")])
def test_history_shows_field_parameters(tmp_path: Path, texts: list[str], shape: tuple[int, ...], title: str) -> None:
    for name in ("final", "truth"):
        np.save(tmp_path / f"{name}.npy", RNG.random(shape))
    entry = {"initial": a_field(None), "final": a_field("final.npy"), "truth": a_field("truth.npy")}
    summary = {"parameters": {"D": {**entry, "relative_error": 0.031, "unit": "1"}}}
    records = [{"cycle": 0, "phase": "train_physical", "epoch": 1, "train/loss": 1.0, "param/D": 0.6}]
    size_of(history_figure(records, summary, tmp_path / "figures" / "h.png"))
    assert {"Mean of the field D", "Field D: 3.1 % off", title} <= set(texts)


@pytest.mark.parametrize("file", [None, "absent.npy", "../outside.npy", "/etc/hostname"])
def test_history_reads_no_file_outside_the_run(tmp_path: Path, texts: list[str], file: str | None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    np.save(tmp_path / "outside.npy", np.ones(4))
    summary = {"parameters": {"D": {"final": a_field(file), "initial": a_field(None), "truth": None}}}
    size_of(history_figure([], summary, tmp_path / "h.png", folder=folder))
    assert "nothing was recorded" in texts


# --- comparison -----------------------------------------------------------------------------------------------------


def a_layout(*resolution: int, boundary: Any = "periodic", **more: Any) -> StateLayout:
    axes = ("x", "y", "z")[: len(resolution)]
    grid = Grid(axes=axes, resolution=resolution, lower=(0.0,) * len(axes), upper=(2.0,) * len(axes))
    return StateLayout(
        grid=grid, dynamic=(FieldInfo(name="u", boundary=Boundary.parse(boundary, axes), unit="m/s", **more),)
    )


def waves(layout: StateLayout, frames: int = 12) -> np.ndarray[Any, Any]:
    """Return a moving wave, `[T, C, *S]`."""
    grids = np.meshgrid(*(np.linspace(0, 2 * np.pi, n) for n in layout.spatial), indexing="ij")
    wave = np.stack([np.sin(sum(grids) - 0.3 * t) for t in range(frames)])
    return np.repeat(wave[:, None], layout.n_dynamic, axis=1).astype(np.float32)


@pytest.mark.parametrize("resolution", [(32,), (24, 24), (24, 8), (12, 10, 8)])
def test_comparison_shows_both_models_and_their_errors(
    tmp_path: Path, texts: list[str], resolution: tuple[int, ...]
) -> None:
    layout = a_layout(*resolution)
    truth = waves(layout)
    path = tmp_path / "figures" / "c.png"
    assert comparison_figure(truth, {"physical": 1.01 * truth, "synthetic": 0.8 * truth}, layout, 0.1, path) == path
    width, height = size_of(path)
    assert 800 <= width <= 1300
    assert 700 <= height <= 1300
    told = " ".join(texts)
    for expected in ("Truth", "Physics", "Surrogate", "nrmse 0.01", "nrmse 0.2", "u", "[m/s]", "t = 1.1", "x"):
        assert expected in told
    assert ("at z = 1" in told) == (len(resolution) == 3)


@pytest.mark.parametrize(
    ("resolution", "models"),
    [((16,), ()), ((16,), ("synthetic",)), ((16,), ("synthetic", "physical", "my $fno$")), ((8, 8), ())],
)
def test_comparison_of_any_number_of_models(
    tmp_path: Path, models: tuple[str, ...], resolution: tuple[int, ...]
) -> None:
    layout = a_layout(*resolution)
    truth = waves(layout)
    size_of(comparison_figure(truth, {model: truth * 0.9 for model in models}, layout, 0.1, tmp_path / "c.png"))


@pytest.mark.parametrize("resolution", [(16,), (8, 8)])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_comparison_says_that_a_model_diverged(
    tmp_path: Path, texts: list[str], resolution: tuple[int, ...], value: float
) -> None:
    layout = a_layout(*resolution)
    truth = waves(layout)
    diverged = truth.copy()
    diverged[5:] = value
    size_of(comparison_figure(truth, {"synthetic": diverged}, layout, 0.1, tmp_path / "c.png"))
    assert any("not finite from t = 0.5" in text for text in texts) == (not np.isfinite(value))


@pytest.mark.parametrize("resolution", [(16,), (8, 8)])
@pytest.mark.parametrize("kind", ["masked", "unknown", "zero", "one"])
def test_comparison_of_odd_truths(tmp_path: Path, resolution: tuple[int, ...], kind: str) -> None:
    layout = a_layout(*resolution)
    truth = waves(layout)
    prediction = truth + 0.1
    if kind == "masked":
        truth[:, :, :4] = np.nan
        truth[3] = np.nan
        prediction = prediction[:7]
    elif kind in ("unknown", "zero"):
        truth[...] = {"unknown": np.nan, "zero": 0.0}[kind]
    else:
        truth, prediction = truth[:1], prediction[:1]
    size_of(comparison_figure(truth, {"physical": prediction}, layout, 0.1, tmp_path / "c.png"))


def test_comparison_of_a_chosen_component_without_filler(tmp_path: Path, texts: list[str]) -> None:
    layout = a_layout(8, 8, boundary="zero-gradient", components=("x", "y"), sampling="staggered")
    assert layout.has_filler
    truth = waves(layout)
    truth[:, 1, -1] = 1e9
    size_of(comparison_figure(truth, {"physical": truth}, layout, 0.1, tmp_path / "c.png", field="u.y"))
    assert "u, y component [m/s]" in texts
    with pytest.raises(KeyError, match=r"u\.z"):
        comparison_figure(truth, {}, layout, 0.1, tmp_path / "c.png", field="u.z")


def test_noise_stays_light(tmp_path: Path) -> None:
    layout = a_layout(64, 64)
    noise = RNG.standard_normal((10, 1, 64, 64))
    path = comparison_figure(noise, {"synthetic": RNG.standard_normal(noise.shape)}, layout, 0.1, tmp_path / "c.png")
    # the worst there is, drawn as coarsely as it gets
    size_of(path, most=250_000)


def test_pyplot_is_not_imported() -> None:
    code = "import sys, hyco_engine.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
