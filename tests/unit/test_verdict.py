"""The verdict on a run: lead times, residuals above the noise, harm by teaching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hyco_engine as hyco
from hyco_engine.report.verdict import correlation, lead_below, models_verdict, verdict
from hyco_engine.testing.specs import TINY, merged

pytestmark = pytest.mark.usefixtures("measured")

FLOORS = [0.1, 0.2, 0.3, 0.4, 0.5]


def measured(by_step: list[float | None], **more: Any) -> dict[str, Any]:
    known = [value for value in by_step if value is not None]
    nrmse = None if len(known) < len(by_step) else sum(known) / len(known)
    return {"nrmse": nrmse, "vrmse": nrmse, "nrmse_by_step": by_step, "vrmse_by_step": by_step, **more}


def completed(split: str = "test", **models: dict[str, Any]) -> dict[str, Any]:
    metrics = {model: {split: found} for model, found in models.items()}
    return {"status": "completed", "data": {"dt": 0.1}, "metrics": metrics}


@pytest.mark.parametrize(
    ("by_step", "reach", "half"),
    [
        ([0.01, 0.05, 0.2, 0.5, 0.6], (3, 5), (2, 5)),
        ([0.01, 0.05, 0.1, 0.1, 0.1], (5, 5), (5, 5)),
        # better again later does not count
        ([0.01, 0.3, 0.1, 0.1, 0.1], (1, 5), (1, 5)),
        ([0.2, 0.3, 0.4, 0.5, 0.6], (0, 5), (0, 5)),
        ([0.01, 0.02, None, None, None], (2, 5), (2, 5)),
        ([0.01, 0.02, float("inf"), float("inf"), float("inf")], (2, 5), (2, 5)),
    ],
)
def test_the_lead_time_up_to_which_a_model_is_useful(
    by_step: list[float | None], reach: tuple[int, int], half: tuple[int, int]
) -> None:
    metrics = completed(synthetic=measured(by_step), persistence=measured(FLOORS))["metrics"]
    assert lead_below(metrics, "synthetic", "test") == reach
    assert lead_below(metrics, "synthetic", "test", 0.5) == half


def test_lead_times_that_were_not_observed_are_no_lead_times() -> None:
    """Every fourth frame was observed, so the third error belongs to step 12."""
    leads = {"lead_steps": [4, 8, 12, 16, 20]}
    metrics = completed(synthetic=measured([0.01, 0.1, 0.2, 0.5, 0.6], **leads), persistence=measured(FLOORS, **leads))
    assert lead_below(metrics["metrics"], "synthetic", "test") == (12, 20)
    assert lead_below({}, "synthetic", "test") is None


@pytest.mark.parametrize(
    ("summary", "sentences"),
    [
        (
            completed(synthetic=measured([0.01, 0.05, 0.2, 0.5, 0.6]), persistence=measured(FLOORS)),
            [
                "The surrogate is of no use beyond t = 0.3: from there on its error passes that of “nothing changes” "
                "on test data; up to t = 0.2 it is below half of that."
            ],
        ),
        (
            completed(synthetic=measured([0.09, 0.3, 0.4, 0.5, 0.6]), persistence=measured(FLOORS)),
            [
                "The surrogate is of no use beyond t = 0.1: from there on its error passes that of “nothing changes” "
                "on test data."
            ],
        ),
        (
            completed(synthetic=measured([0.12, 0.3, 0.2, 0.1, 0.1]), persistence=measured(FLOORS)),
            [
                "The surrogate errs more than “nothing changes” before t = 0.3 on test data; over whole rollouts it "
                "has 55 % of its error."
            ],
        ),
        (
            completed(synthetic=measured([0.2, 0.4, 0.6, 0.8, 1.0]), persistence=measured(FLOORS)),
            ["The surrogate has learned nothing of use: it errs 2 times as much as “nothing changes” on test data."],
        ),
        (
            completed(physical=measured([0.3] * 5), persistence=measured([0.4] * 5))
            | {"noise": {"u": {"relative": 0.025}}},
            [
                "The physics does not explain the test data: its residual is 12 times the noise.",
                "The physics does little better than “nothing changes”: 75 % of its error on test data.",
            ],
        ),
        (
            completed(physical=measured([0.7] * 5), persistence=measured([0.5] * 5))
            | {"noise": {"u": {"relative": 1e-6}}},
            [
                "The physics does not explain the test data: its residual is 70 % of the spread.",
                "A wrong physics leaves so much, but so does a right one if the search ended in another minimum: "
                "give the parameters bounds, and let training.physical.starts = 8 look for others.",
                "The physics has learned nothing of use: it errs 1.4 times as much as “nothing changes” on test data.",
            ],
        ),
        (
            completed(physical=measured([0.04] * 5), persistence=measured([0.5] * 5))
            | {"noise": {"u": {"relative": 1e-6}}},
            [
                "The physics does not explain the test data: its residual is 4 % of the spread.",
                "On test data the physics errs 12 times less than “nothing changes”.",
            ],
        ),
        (
            # the residual of a chaotic physics that is right grows from the noise
            completed(physical=measured([0.02, 0.04, 0.08, 0.4, 0.6]), persistence=measured([9.0] * 5))
            | {"noise": {"u": {"relative": 0.02}}},
            ["On test data the physics errs 39 times less than “nothing changes”."],
        ),
        (
            completed("val", physical=measured([0.0046]), persistence=measured([0.5]))
            | {
                "cooperation": [
                    {"direction": "physical->synthetic", "n_generated": 2, "e_pupil": 0.001},
                    {"direction": "synthetic->physical", "n_generated": 0, "e_pupil": 0.9},
                    {"direction": "synthetic->physical", "n_generated": 2, "e_pupil": 0.0037},
                    {"direction": "synthetic->physical", "n_generated": 2, "e_pupil": 0.0044},
                ]
            },
            [
                "The held-out error of the physics rose from 0.0037 to 0.0046 after teaching.",
                "On val data the physics errs 110 times less than “nothing changes”.",
            ],
        ),
        (
            {"parameters": {"nu": {"final": 0.1, "standard_error": 0.4, "at_bound": "lower", "moved": True}}},
            [
                "This run is unfinished after 0 whole cycles; the results are those that it had reached by then.",
                "nu lies at its lower bound, and the fit would go on beyond it: 0.1 ± 0.4.",
            ],
        ),
        (
            completed("val", physical=measured([None]), persistence=measured([0.5]))
            | {"cooperation": [{"direction": "synthetic->physical", "n_generated": 2, "e_pupil": 0.0037}]},
            [
                "The held-out error of the physics rose from 0.0037 to infinity after teaching.",
                "The physics diverges on val data.",
            ],
        ),
    ],
)
def test_sentences(summary: dict[str, Any], sentences: list[str]) -> None:
    assert verdict(summary) == sentences


def test_an_error_as_large_as_the_noise_is_no_fault_of_a_model() -> None:
    noise = {"u": {"level": 3.0, "relative": 0.3}}
    summary = completed(physical=measured([0.3, 0.31]), persistence=measured([0.5, 0.6])) | {"noise": noise}
    assert verdict(summary) == ["The physics predicts the test data to within their noise of 30 %."]
    # the later frames that are tested may spread less than those that train, which the noise is relative to
    summary["metrics"]["physical"]["test"] |= {"vrmse": 0.5, "rmse": 3.1}
    assert verdict(summary) == ["The physics predicts the test data to within their noise of 30 %."]
    summary["metrics"]["physical"]["test"]["rmse"] = 9.0
    assert "noise" not in " ".join(verdict(summary))
    # a model that errs less than the noise was measured on clean data
    summary["metrics"]["physical"]["test"] |= {"vrmse": 0.05, "nrmse": 0.05}
    assert "noise" not in " ".join(verdict(summary))
    # nor does noise excuse a model that loses to persistence
    lost = completed(physical=measured([0.3, 0.31]), persistence=measured([0.2, 0.2])) | {"noise": noise}
    assert "noise" not in " ".join(verdict(lost))


def test_without_a_time_step_lead_times_are_counted() -> None:
    summary = completed(physical=measured([0.09, 0.3, 0.4, 0.5, 0.6]), persistence=measured(FLOORS))
    assert models_verdict(summary["metrics"], None) == [
        "The physics is of no use beyond 1 step: from there on its error passes that of “nothing changes” on test data."
    ]


CHAOS = {"chaos": {"lyapunov_exponent": 0.5, "standard_error": 0.05, "lyapunov_time": 2.0}}
CORRELATION = "The correlation of the surrogate with the test data"


@pytest.mark.parametrize(
    ("more", "falls", "sentences", "in_verdict"),
    [
        ({}, 4, [f"{CORRELATION} stays at 0.8 or above up to t = 0.3."], True),
        ({}, 1, [f"{CORRELATION} is below 0.8 from the first step on."], True),
        ({}, None, [f"{CORRELATION} stays at 0.8 or above up to t = 0.5, the end of the rollouts."], False),
        (
            CHAOS,
            5,
            [
                "The physics is chaotic, with a Lyapunov time of 2 ± 0.2.",
                f"{CORRELATION} stays at 0.8 or above up to t = 0.4, 0.2 Lyapunov times.",
            ],
            True,
        ),
        (
            CHAOS | {"data": {}},
            None,
            [
                "The physics is chaotic, with a Lyapunov time of 2 ± 0.2.",
                f"{CORRELATION} stays at 0.8 or above up to 5 steps, the end of the rollouts.",
            ],
            True,
        ),
    ],
)
def test_how_long_the_surrogate_stays_correlated(
    more: dict[str, Any], falls: int | None, sentences: list[str], in_verdict: bool
) -> None:
    own = measured([0.01] * 5, lead_steps=[1, 2, 3, 4, 5], correlation_time=falls)
    summary = completed(synthetic=own, persistence=measured(FLOORS)) | more
    assert correlation(summary) == sentences
    assert [told for told in verdict(summary) if told in sentences] == (sentences if in_verdict else [])


def test_without_lead_times_nothing_is_said_about_correlation() -> None:
    assert correlation(completed(synthetic={"loss": 0.1})) == correlation({}) == []


def test_terminal_report_and_summary_tell_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn: None
) -> None:
    from hyco_engine.cli.terminal import Terminal

    monkeypatch.chdir(tmp_path)
    result = hyco.Engine(merged({"run": {"cycles": 1}}, TINY), callbacks=[Terminal()]).run()
    told = result.summary["verdict"]
    assert told == verdict(result.summary) != []
    assert json.loads((result.folder / "summary.json").read_text())["verdict"] == told
    lines = capsys.readouterr().out.splitlines()
    assert [line[10:] for line in lines[1 : 1 + len(told)]] == told
    assert lines[1].startswith("verdict   ")
    page = (result.folder / "report.html").read_text()
    assert " ".join(told) in page
    assert " ".join(told) in repr(result)


def test_a_correction_is_advised_where_there_is_none() -> None:
    missing = [{"field": "u", "term": "u^2", "correlation": 0.22}]
    summary = {"status": "completed", "physics_test": {"explained": False, "missing": missing}}
    lacks = "What the physics lacks resembles u^2 (correlation 0.22) in the rate of u"
    advised = f"{lacks}; a surrogate of kind “corrected” learns it beside the physics."
    assert verdict(summary) == [advised]
    assert verdict(summary | {"correction": {"accepted": True}}) == [f"{lacks}."]


def test_on_noisy_data_harm_is_told_of_what_was_kept_alone() -> None:
    """Errors of the cooperation are without the noise, which those of the metrics contain."""
    noise = {"u": {"level": 3.0, "relative": 0.3}}
    summary = completed(physical=measured([0.3, 0.31]), persistence=measured([0.5, 0.6])) | {"noise": noise}
    summary["metrics"]["physical"]["val"] = summary["metrics"]["physical"]["test"]
    kept = {"direction": "synthetic->physical", "n_generated": 2, "e_pupil": 0.1, "e_after": 0.1, "accepted": True}
    undone, worse = {**kept, "e_after": 0.2, "accepted": False}, {**kept, "e_after": 0.2}

    def harm(*entries: dict[str, Any]) -> bool:
        return "after teaching" in " ".join(verdict(summary | {"cooperation": list(entries)}))

    assert not harm(kept)
    assert not harm(undone)
    assert not harm(kept, undone)
    assert harm(kept, worse)
