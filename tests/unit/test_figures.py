"""The first figures: what is drawn, as valid, light pictures, whatever is missing or diverged."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.text import Text
from messages import error_naming

from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
from hyco_engine.errors import DataError
from hyco_engine.report.comparison import comparison_figure
from hyco_engine.report.history import history_figure

RNG = np.random.default_rng(0)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, in order."""
    seen: list[Figure] = []
    savefig = Figure.savefig

    def spy(figure: Figure, *args: Any, **kwargs: Any) -> None:
        savefig(figure, *args, **kwargs)
        seen.append(figure)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


class Texts:
    """All visible text of the figures that are saved."""

    def __init__(self, figures: list[Figure]) -> None:
        self.figures = figures

    def __iter__(self) -> Iterator[str]:
        for figure in self.figures:
            found = figure.findobj(Text)
            yield from (text.get_text() for text in found if isinstance(text, Text) and text.get_visible())


@pytest.fixture
def texts(figures: list[Figure]) -> Texts:
    return Texts(figures)


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


def test_history_tells_losses_errors_and_parameters(tmp_path: Path, texts: Texts) -> None:
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


def test_history_of_one_model(tmp_path: Path, texts: Texts) -> None:
    size_of(history_figure(some_records(players=("synthetic",)), {"parameters": {}}, tmp_path / "h.png"))
    assert "Training loss: surrogate" in texts
    assert "Training loss: physics" not in texts
    assert not any(text.startswith("nothing changes") for text in texts)


def test_history_draws_how_the_terms_of_a_loss_are_balanced(tmp_path: Path, texts: Texts) -> None:
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


def test_history_without_truth(tmp_path: Path, texts: Texts) -> None:
    summary = a_summary(truth=None, relative_error=None, unit="1")
    size_of(history_figure(some_records(), summary, tmp_path / "h.png"))
    assert "Parameter nu" in texts
    assert not any(text.startswith("truth") for text in texts)


@pytest.mark.parametrize("summary", [{}, {"status": "failed", "parameters": None, "metrics": None}])
def test_history_of_nothing(tmp_path: Path, texts: Texts, summary: dict[str, Any]) -> None:
    size_of(history_figure([], summary, tmp_path / "h.png"))
    assert "nothing was recorded" in texts


def test_history_of_one_epoch_and_of_a_diverged_model(tmp_path: Path, texts: Texts) -> None:
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
def test_history_shows_field_parameters(tmp_path: Path, texts: Texts, shape: tuple[int, ...], title: str) -> None:
    for name in ("final", "truth"):
        np.save(tmp_path / f"{name}.npy", RNG.random(shape))
    entry = {"initial": a_field(None), "final": a_field("final.npy"), "truth": a_field("truth.npy")}
    summary = {"parameters": {"D": {**entry, "relative_error": 0.031, "unit": "1"}}}
    records = [{"cycle": 0, "phase": "train_physical", "epoch": 1, "train/loss": 1.0, "param/D": 0.6}]
    size_of(history_figure(records, summary, tmp_path / "figures" / "h.png"))
    assert {"Mean of the field D", "Field D: 3.1 % off", title} <= set(texts)


@pytest.mark.parametrize("file", [None, "absent.npy"])
def test_history_shows_no_field_whose_file_is_missing(tmp_path: Path, texts: Texts, file: str | None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    summary = {"parameters": {"D": {"final": a_field(file), "initial": a_field(None), "truth": None}}}
    size_of(history_figure([], summary, tmp_path / "h.png", folder=folder))
    assert "nothing was recorded" in texts


@pytest.mark.parametrize("file", ["../outside.npy", "/etc/hostname"])
def test_history_reads_no_file_outside_the_run(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    np.save(tmp_path / "outside.npy", np.ones(4))
    summary = {"parameters": {"D": {"final": a_field(file), "initial": a_field(None), "truth": None}}}
    with error_naming(DataError, file, "not in the run folder"):
        history_figure([], summary, tmp_path / "h.png", folder=folder)


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
    tmp_path: Path, texts: Texts, resolution: tuple[int, ...]
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


def pictures(figure: Figure) -> dict[str, list[AxesImage]]:
    """The images of a comparison by what they show: the title of a space-time image, or the label of a row."""
    found: dict[str, list[AxesImage]] = {}
    name = ""
    for ax in figure.axes:
        if ax.images:
            name = ax.get_title(loc="left") or ax.get_ylabel().removesuffix("\ny") or name
            found.setdefault(name, []).extend(ax.images)
    return found


def assert_shows(images: Sequence[AxesImage], values: Any, frames: Sequence[int], limits: tuple[float, float]) -> None:
    """The images hold `values [T, *S]`: in one dimension all of them over time, in two a snapshot for each frame.

    What lies far outside of the scale is cut at ten times its ends.
    """
    flat = values.ndim == 2
    values = np.clip(values, -10 * max(map(abs, limits)), 10 * max(map(abs, limits)))
    for image, wanted in zip(images, [values] if flat else [values[frame] for frame in frames], strict=True):
        np.testing.assert_allclose(image.get_array().filled(np.nan), wanted.T, rtol=1e-6, atol=1e-6)
        end = 0.1 * max(len(values) - 1, 1)
        assert image.get_extent() == pytest.approx([0.0, end if flat else 2.0, 0.0, 2.0])
        assert image.get_clim() == pytest.approx(limits, rel=0.01)


TOLD = {"synthetic": "Surrogate", "physical": "Physics", "my $fno$": r"my \$fno\$"}


@pytest.mark.parametrize(
    ("models", "resolution"),
    [
        ((), (16,)),
        (("synthetic",), (8, 8)),
        (("synthetic", "physical", "my $fno$"), (16,)),
        (("synthetic", "physical", "my $fno$"), (8, 8)),
    ],
)
def test_comparison_of_any_number_of_models(
    tmp_path: Path, figures: list[Figure], models: tuple[str, ...], resolution: tuple[int, ...]
) -> None:
    layout = a_layout(*resolution)
    truth = waves(layout)
    predictions = {model: (0.9 - 0.1 * k) * truth for k, model in enumerate(models)}
    size_of(comparison_figure(truth, predictions, layout, 0.1, tmp_path / "c.png"))
    shown, frames = pictures(figures[-1]), (0, 4, 7, 11)
    most = float(np.abs(truth).max())
    assert_shows(shown.pop("Truth"), truth[:, 0], frames, (-most, most))
    for model, values in predictions.items():
        assert_shows(shown.pop(TOLD[model]), values[:, 0], frames, (-most, most))
    # one scale for the errors of all models, up to the largest of them
    worst = (0.1 + 0.1 * (len(models) - 1)) * most
    for k, (model, values) in enumerate(predictions.items()):
        error, size = values[:, 0] - truth[:, 0], f"nrmse {0.1 + 0.1 * k:.1g}"
        if len(resolution) == 1:
            assert_shows(shown.pop(f"{TOLD[model]} - truth: {size}"), error, frames, (-worst, worst))
        else:
            assert_shows(shown.pop(f"|{TOLD[model]} - truth|\n{size}"), abs(error), frames, (0.0, worst))
    assert shown == {}
    axes = figures[-1].axes
    scales = [ax.get_ylabel() for ax in axes if ax.get_ylabel() in ("u [m/s]", "error", "absolute error")]
    assert "u [m/s]" in scales
    assert any("error" in scale for scale in scales) == bool(models)
    assert {ax.get_xlabel() for ax in axes} == {"", *(("t", "x") if len(resolution) == 1 else ("x",))}


def test_comparison_in_one_dimension_draws_curves_of_all_models(tmp_path: Path, figures: list[Figure]) -> None:
    layout = a_layout(16)
    truth = waves(layout)
    comparison_figure(truth, {"physical": 0.9 * truth}, layout, 0.1, tmp_path / "c.png")
    panels = {ax.get_title(loc="left"): {str(line.get_label()): line for line in ax.lines} for ax in figures[-1].axes}
    for title, frame in (("t = 0.4", 4), ("t = 0.7", 7), ("t = 1.1", 11)):
        assert list(panels[title]) == ["truth", "Physics"]
        for name, factor in (("truth", 1.0), ("Physics", 0.9)):
            # the values of cells lie at their centres
            np.testing.assert_allclose(panels[title][name].get_xdata(), 2.0 * (np.arange(16) + 0.5) / 16)
            np.testing.assert_allclose(panels[title][name].get_ydata(), factor * truth[frame, 0], atol=1e-6)
    errors = panels["Relative error over time"]
    assert list(errors) == ["Physics", "nothing changes"]
    for line in errors.values():
        np.testing.assert_allclose(line.get_xdata(), 0.1 * np.arange(1, 12))
    np.testing.assert_allclose(errors["Physics"].get_ydata(), 0.1, rtol=1e-5)


@pytest.mark.parametrize(("value", "resolution"), [(np.nan, (16,)), (np.inf, (8, 8)), (1e30, (16,)), (1e30, (8, 8))])
def test_comparison_says_that_a_model_diverged(
    tmp_path: Path, texts: Texts, resolution: tuple[int, ...], value: float
) -> None:
    layout = a_layout(*resolution)
    truth = waves(layout)
    diverged = truth.copy()
    diverged[5:] = value
    size_of(comparison_figure(truth, {"synthetic": diverged}, layout, 0.1, tmp_path / "c.png"))
    assert any("not finite from t = 0.5" in text for text in texts) == (not np.isfinite(value))


@pytest.mark.parametrize(
    ("kind", "frames", "error", "resolution"),
    [
        # a prediction that ends early: its frames are drawn, of these the ones in which something was observed
        ("masked", (0, 2, 4, 6), "nrmse 0.14", (16,)),
        ("masked", (0, 2, 4, 6), "nrmse 0.14", (8, 8)),
        ("unknown", (0, 4, 7, 11), "no truth", (8, 8)),
        ("zero", (0, 4, 7, 11), "no truth", (16,)),
        ("one", (0,), "no truth", (16,)),
        ("one", (0,), "no truth", (8, 8)),
    ],
)
def test_comparison_of_odd_truths(
    tmp_path: Path,
    figures: list[Figure],
    resolution: tuple[int, ...],
    kind: str,
    frames: tuple[int, ...],
    error: str,
) -> None:
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
    shown = pictures(figures[-1])
    truth = truth[: len(prediction)]
    # where the truth gives no range, the scale is some range all the same
    most = 1.0 if kind == "zero" else float(np.abs(truth).max(initial=0, where=~np.isnan(truth)))
    limits = (0.0, 1.0) if kind == "unknown" else (-most, most)
    assert_shows(
        shown.pop("Truth (grey: unknown)" if kind in ("masked", "unknown") else "Truth"), truth[:, 0], frames, limits
    )
    assert_shows(shown.pop("Physics"), prediction[:, 0], frames, limits)
    worst = {"zero": float(prediction.max()), "unknown": 1.0}.get(kind, 0.1)
    wrong = prediction[:, 0] - truth[:, 0]
    if len(resolution) == 1:
        assert_shows(shown.pop(f"Physics - truth: {error}"), wrong, frames, (-worst, worst))
    else:
        assert_shows(shown.pop(f"|Physics - truth|\n{error}"), abs(wrong), frames, (0.0, worst))
    assert shown == {}


def test_comparison_of_a_chosen_component_without_filler(tmp_path: Path, texts: Texts) -> None:
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
    code = "import sys, hyco_engine.report.run_figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
