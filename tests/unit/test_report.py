"""The report page: what it says, that it is complete in itself, that text stays text."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import error_naming
from report_cases import EVIL, layout_of, metrics_of, rollout_of, run_folder, summary_of

from hyco_engine.cli import cli
from hyco_engine.errors import DataError
from hyco_engine.report.brief import brief_html, brief_text
from hyco_engine.report.numbers import significant
from hyco_engine.report.page import RunRecord, report_page, write_report
from hyco_engine.report.panels import spectrum
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.report.svg import svg_chart
from hyco_engine.report.verdict import verdict
from hyco_engine.report.views import MAX_BYTES, quantised, views

pytestmark = pytest.mark.usefixtures("measured")


class Page(HTMLParser):
    """Elements and text of a page, as a browser's parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open and data.strip():
            self.text.append(" ".join(data.split()))


@pytest.fixture(scope="module")
def page_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = run_folder(tmp_path_factory.mktemp("run"), rollout_of(layout_of(16)), summary_of(), name="small")
    return report_page(RunRecord.of(folder))


def test_first_comes_what_was_learned(page_text: str) -> None:
    text = Page(page_text).text
    found = " | ".join(text)
    assert text[:4] == ["small – hyco-engine", "hyco-engine run report", "small", "completed"]
    assert text[4] == (
        "nu was found to within 1 % of its true value. On test data the physics errs 500 times less than “nothing "
        "changes”, the surrogate errs 25 times less."
    )
    assert "nu | m^2/s | 0.05 | 0.0202 ± 0.0003 | 0.02 | 1 %" in found
    assert "physics | 0.001 | 500 × smaller | 0.001 | 0.001" in found
    assert found.index("Errors on held-out real data") < found.index("Truth and models on a held-out test simulation")


def test_all_the_rest_is_told(page_text: str) -> None:
    found = " | ".join(Page(page_text).text)
    for part in (
        "Training loss: surrogate",
        "Training loss: physics",
        "Error on held-out real data",
        "Parameter nu [m^2/s]",
        "Error against lead time, test data",
        "Spectrum of u at t = 0.5",
        "1 | train surrogate | 20 | 2 | 1 | 0.1 | 0.1 | yes",
        "Generated samples were held by the cache “memory”, 2.5 kB at most: it is small.",
        "1 | physical to synthetic | 0.1 | yes",
        "train physics | 40.0 s | 53 %",
        "The run took 1 min 15 s and used at most 812 MB of memory.",
        "seed | 7",
        '[run] name = "small"',
    ):
        assert part in found, part


def test_it_is_complete_in_itself(page_text: str) -> None:
    page = Page(page_text)
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", page_text)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", page_text)
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "img", "link", "form"} == set()
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    (own,) = [s for s in page.scripts if not s.startswith("[")]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert f"'sha256-{digest}'" in policy
    assert len(page_text) < 5_000_000


def test_pictures_have_names_and_the_slider_a_label(page_text: str) -> None:
    page = Page(page_text)
    charts = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(charts) == 7
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    labels = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    (slider,) = [a for tag, a in page.elements if a.get("type") == "range"]
    assert slider["id"] in labels
    assert dict(page.elements)["html"] == {"lang": "en"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_text_stays_text(tmp_path: Path) -> None:
    summary = summary_of(warnings=[EVIL], error=EVIL, status="failed", cooperation=[{EVIL: EVIL}])
    parameter = summary["parameters"]["nu"]
    summary["parameters"] = {EVIL: {**parameter, "unit": EVIL}}
    summary["cache"]["reason"] = EVIL
    rollout = rollout_of(layout_of(12, name=EVIL))
    page = report_page(RunRecord.of(run_folder(tmp_path, rollout, summary, name=EVIL)))
    assert "<script>alert" not in page
    parsed = Page(page)
    assert sum(tag == "script" for tag, _ in parsed.elements) == 2
    for place in (f"{EVIL} – hyco-engine", EVIL):
        assert place in parsed.text
    (data,) = [s for s in parsed.scripts if s.startswith("[")]
    assert json.loads(data)[0]["label"] == f"{EVIL} [m]"


def test_a_run_that_has_not_ended(tmp_path: Path) -> None:
    text = " | ".join(Page(report_page(RunRecord.of(run_folder(tmp_path)))).text)
    assert "This run is unfinished after 0 whole cycles; the results are those that it had reached by then." in text
    assert "Training loss: physics" in text
    assert "The run did not end, so it has no rollouts to show." in text


def test_data_that_is_no_field(tmp_path: Path) -> None:
    metrics = {"synthetic": {"val": {"loss": 0.5, "loss_by_field": {"kind": 0.5}}}}
    page = Page(report_page(RunRecord.of(run_folder(tmp_path, None, summary_of(metrics=metrics, parameters={})))))
    text = " | ".join(page.text)
    assert "surrogate | 0.5" in text
    assert "nothing changes" not in text
    assert "rollouts to show" not in text


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, rollout_of(layout_of(8, 8)), summary_of())
    assert report_page(RunRecord.of(folder)) == report_page(RunRecord.of(folder))


def test_the_command(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", rollout_of(layout_of(8)), summary_of())
    out = tmp_path / "sent.html"
    result = CliRunner().invoke(cli, ["report", str(folder), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"run": str(folder), "report": str(out), "bytes": out.stat().st_size}
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_bytes() == out.read_bytes()


def test_no_run_folder(tmp_path: Path) -> None:
    with error_naming(DataError, tmp_path, "spec.toml"):
        RunRecord.of(tmp_path)


# --- rollouts -------------------------------------------------------------------------------------------------------


def test_rollouts_are_kept_to_the_bit(tmp_path: Path) -> None:
    rollout = rollout_of(layout_of(4, 3))
    rollout.truth[2, 0, 1, 1] = np.nan
    first = rollout.save(tmp_path).read_bytes()
    read = HeldOutRollout.load(tmp_path)
    assert read is not None
    assert (read.layout, read.dt, read.split) == (rollout.layout, 0.1, "test")
    assert read.truth.tobytes() == rollout.truth.tobytes()
    assert {m: v.tobytes() for m, v in read.predictions.items()} == {
        m: v.tobytes() for m, v in rollout.predictions.items()
    }
    assert rollout.save(tmp_path).read_bytes() == first


def test_long_rollouts_are_thinned() -> None:
    rollout = rollout_of(layout_of(10), frames=101)
    size = 3 * rollout.truth.nbytes
    half = rollout.thinned(size // 2 + 100)
    assert (len(half.truth), half.dt) == (51, pytest.approx(0.2))
    np.testing.assert_array_equal(half.predictions["physical"], rollout.predictions["physical"][::2])
    assert rollout.thinned(size) is rollout
    assert len(rollout.thinned(1).truth) == 2


def test_damaged_rollouts_are_named(tmp_path: Path) -> None:
    path = rollout_of(layout_of(4)).save(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with error_naming(DataError, "rollout.safetensors"):
        HeldOutRollout.load(tmp_path)


# --- views ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.integers(2, 65535))
def test_quantised_values_are_near(values: list[float], top: int) -> None:
    array = np.array(values)
    levels = quantised(array, -2.0, 3.0, top)
    known = np.isfinite(array)
    assert ((levels == 0) == ~known).all()
    assert levels.max() <= top
    back = -2.0 + (levels - 1) / (top - 1) * 5.0
    assert (np.abs(back - np.clip(array, -2.0, 3.0))[known] <= 5.0 / (top - 1) / 2 + 1e-9).all()


def decoded(panel: dict[str, Any], key: str = "values", dtype: str = "u1") -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(panel[key]), dtype)


def test_one_dimension_has_images_and_curves() -> None:
    rollout = rollout_of(layout_of(16))
    rollout.truth[3, 0, 5] = np.nan
    (view,) = views(rollout)
    assert (view["dims"], view["cells"], view["times"]) == (1, [16], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    truth, physics = view["panels"][:2]
    assert [panel["key"] for panel in view["panels"]] == [
        "truth", "physical", "synthetic", "physical-error", "synthetic-error",
    ]  # fmt: skip
    image = decoded(truth).reshape(6, 16)
    assert (image == 0).sum() == 1
    assert image[3, 5] == 0
    curve = decoded(physics, "curve", "<u2").reshape(6, 16)
    scale = view["scales"]["value"]
    pad = (scale["high"] - scale["low"]) / 4
    back = scale["low"] - pad + (curve.astype(float) - 1) / 65534 * (scale["high"] - scale["low"] + 2 * pad)
    np.testing.assert_allclose(back, rollout.predictions["physical"][:, 0], atol=1e-4)
    assert view["panels"][3]["nrmse"][1] == pytest.approx(0.01, abs=1e-4)


def test_two_dimensions_are_drawn_with_y_upwards() -> None:
    layout = layout_of(3, 2)
    values = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2) + 10
    rollout = HeldOutRollout(truth=np.repeat(values, 2, 0), predictions={}, layout=layout, dt=1.0, split="val")
    (view,) = views(rollout)
    picture = decoded(view["panels"][0]).reshape(2, 2, 3)[0]
    # the top row is the largest y, columns are x
    expected = quantised(np.array([[11, 13, 15], [10, 12, 14]]), 10.0, 15.0, 255)
    np.testing.assert_array_equal(picture, expected)


def test_three_dimensions_are_cut_in_each_direction() -> None:
    rollout = rollout_of(layout_of(6, 4, 8))
    found = views(rollout)
    assert [view["label"] for view in found] == ["u [m] at z = 0.5", "u [m] at y = 0.5", "u [m] at x = 0.5"]
    assert [view["cells"] for view in found] == [[6, 4], [6, 8], [4, 8]]
    assert [view["axes"] for view in found] == [["x", "y"], ["x", "z"], ["y", "z"]]
    middle = rollout.truth[1, 0, 3]
    scale = found[2]["scales"]["value"]
    picture = decoded(found[2]["panels"][0]).reshape(6, 8, 4)[1]
    np.testing.assert_array_equal(picture[::-1].T, quantised(middle, scale["low"], scale["high"], 255))


def test_large_fields_stay_small() -> None:
    found = views(rollout_of(layout_of(300, 200, name="v", components=("x", "y")), frames=40))
    assert len(found) == 2
    size = sum(len(decoded(panel)) for view in found for panel in view["panels"])
    assert size <= MAX_BYTES
    assert found[0]["cells"] == [150, 100]
    assert found[0]["times"][0] == 0.0


def test_a_model_that_diverged_says_when() -> None:
    rollout = rollout_of(layout_of(8))
    rollout.predictions["synthetic"][3:] = np.inf
    (view,) = views(rollout)
    panel = view["panels"][-1]
    assert panel["note"] == "not finite from t = 0.3"
    assert panel["nrmse"][3:] == [None] * 3
    assert (decoded(panel).reshape(6, 8)[3:] == 0).all()


def test_spectrum_of_a_wave() -> None:
    x = np.arange(32) / 32
    waves, energy = spectrum(3 * np.sin(2 * np.pi * 5 * x) + 1)
    assert waves.tolist() == list(range(1, 17))
    # a wave of amplitude a has the mean square a^2 / 2
    assert energy[4] == pytest.approx(4.5)
    assert np.delete(energy, 4).max() < 1e-20


# --- words and numbers ----------------------------------------------------------------------------------------------

NU = summary_of()["parameters"]["nu"]


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        ({}, "This run is unfinished after 0 whole cycles; the results are those that it had reached by then."),
        ({"status": "completed"}, "This run trained and measured no model."),
        (
            {"status": "interrupted", "cycles": 1, "parameters": {"nu": NU | {"moved": False}}},
            "This run was interrupted after 1 whole cycle; the results are those that it had reached by then. nu did "
            "not move from its start.",
        ),
        (
            {"status": "completed", "parameters": {"nu": NU | {"standard_error": 1e-5}}},
            "nu was found to within 1 % of its true value, which is 20 standard errors: more than noise explains.",
        ),
        (
            {"status": "completed", "parameters": {"a": NU, "b": NU | {"relative_error": 0.02}}},
            "Both parameters were found to within 2 % of their true values (b is furthest off).",
        ),
        (
            {"status": "completed", "parameters": {"a": NU, "b": NU | {"final": 0.0356, "relative_error": 0.78}}},
            "b was not found: 0.0356 ± 0.0003 m^2/s, 78 % off its true value, which is 52 standard errors: more than "
            "noise explains. a was found to within 1 % of its true value.",
        ),
        (
            {"status": "completed", "parameters": {"nu": NU | {"standard_error": 0.03, "relative_error": 0.78}}},
            "nu is uncertain: 0.0202 ± 0.03 m^2/s, 78 % off its true value.",
        ),
        (
            {"status": "completed", "parameters": {"nu": NU | {"relative_error": None, "truth": None}}},
            "Found: nu = 0.0202 ± 0.0003 m^2/s.",
        ),
        (
            {"status": "completed", "metrics": {"synthetic": metrics_of(0.75), "persistence": metrics_of(0.5)}},
            "The surrogate has learned nothing of use: it errs 1.5 times as much as “nothing changes” on test data.",
        ),
        (
            {"status": "completed", "metrics": {"synthetic": metrics_of(0.26), "persistence": metrics_of(0.5)}},
            "The surrogate does little better than “nothing changes”: 52 % of its error on test data.",
        ),
        (
            {"status": "completed", "metrics": {"synthetic": metrics_of(0.24), "persistence": metrics_of(0.5)}},
            "The surrogate has 48 % of the error of “nothing changes” on test data.",
        ),
        (
            {"status": "completed", "metrics": {"physical": metrics_of(None), "persistence": metrics_of(0.5)}},
            "The physics diverges on test data.",
        ),
    ],
)
def test_verdicts(summary: dict[str, Any], sentence: str) -> None:
    assert " ".join(verdict(summary)) == sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234.56, "1235"), (0.00012345, "0.0001234"), (1e-5, "1e-05"), (7, "7"), (None, "–"), (True, "–")],
)
def test_significant(value: Any, text: str) -> None:
    assert significant(value) == text


def test_charts_take_their_colours_from_the_page() -> None:
    def draw(ax: Any) -> None:
        ax.plot([1, 2], [1, 2], color="#0072B2")
        ax.set_title(EVIL, loc="left")

    chart = svg_chart(draw)
    assert "stroke: var(--c-0072b2, #0072b2)" in chart
    assert chart == svg_chart(draw)
    assert chart.startswith("<svg")
    assert f'role="img" aria-label="{html.escape(EVIL)}"' in chart
    assert "<script>" not in chart
    assert ">2.0<" in chart


def test_results_in_a_notebook() -> None:
    summary = summary_of()
    summary["parameters"] = {EVIL: NU}
    text = brief_html(Path(f"runs/{EVIL}"), summary)
    assert "<script>" not in text
    assert "<td>0.0202 ± 0.0003</td>" in text
    assert Page(text).text.count(EVIL) == 1
    assert brief_text(Path("runs/a-1"), summary_of()).startswith(
        "RunResult(runs/a-1, completed: nu was found to within"
    )
