"""The report of a run: one HTML file that needs no other file and no network, made from the run folder alone.

It needs neither the data nor the models, so a copy of a run folder is enough. The template escapes all text
(`hyco_engine.report.rendering`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from hyco_engine.errors import DataError
from hyco_engine.report.history import history_panels
from hyco_engine.report.numbers import is_number
from hyco_engine.report.page_tables import (
    detail_tables,
    environment_rows,
    error_table,
    parameter_rows,
    phase_rows,
    physics_test_text,
    time_text,
)
from hyco_engine.report.panels import curve_panels, lead_time_panels, physics_test_panels, spectrum_panels
from hyco_engine.report.pay_words import cost_panel
from hyco_engine.report.posterior_panels import posterior_panels, posterior_text
from hyco_engine.report.rendering import render
from hyco_engine.report.rollouts import HeldOutRollout
from hyco_engine.report.svg import svg_chart
from hyco_engine.report.verdict import budgets, correlation, verdict
from hyco_engine.report.views import views
from hyco_engine.runs.costs import read_costs
from hyco_engine.runs.environment import ENVIRONMENT
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.metrics import find_metrics, find_summary, of_kept_arms
from hyco_engine.runs.posterior import read_posterior
from hyco_engine.runs.reading import SPEC, RunFiles
from hyco_engine.runs.structure import ENVIRONMENT_SHAPE, check

REPORT = "report.html"
LEAD_TIMES = "Errors of rollouts from the first frame to the last."
SPECTRA = "The spectra are those of the simulation above."


@attrs.frozen(kw_only=True)
class RunRecord:
    """The content of a run folder; what the folder lacks is empty."""

    folder: Path
    name: str
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    spec: str
    rollout: HeldOutRollout | None
    costs: Mapping[str, Any] | None = None
    """What `paying.costs` measured, if it did."""
    posterior: Mapping[str, Any] | None = None
    """What a sampler found, if there was one."""

    @classmethod
    def of(cls, folder: Path, summary: Mapping[str, Any] | None = None) -> RunRecord:
        """Read a run folder; `summary` is the future content of summary.json, for a run that is just ending.

        Raise DataError where it is no run folder, or a file in it is damaged.
        """
        files = RunFiles(folder)
        spec = files.text(SPEC)
        if not spec:
            raise DataError(f"{folder} is no run folder: it holds no {SPEC}")
        if summary is None:
            summary = find_summary(folder) or {}
        return cls(
            folder=folder,
            name=run_name(folder),
            summary=summary,
            metrics=of_kept_arms(find_metrics(folder) or (), summary),
            environment=_environment(files),
            spec=spec,
            rollout=HeldOutRollout.load(folder),
            costs=read_costs(folder),
            posterior=read_posterior(folder),
        )

    @property
    def data_dt(self) -> float | None:
        """Return the time between two frames of the data; the stored rollout may hold fewer frames."""
        if self.rollout is None:
            return None
        metrics = (self.summary.get("metrics") or {}).get("persistence") or {}
        steps = len((metrics.get(self.rollout.split) or {}).get("nrmse_by_step") or ())
        kept = len(self.rollout.truth) - 1
        return self.rollout.dt * kept / steps if steps and kept else None


def write_report(folder: Path, out: Path | None = None, summary: Mapping[str, Any] | None = None) -> Path:
    """Write the report of a run folder to `out`, by default report.html in it. See `RunRecord.of` for `summary`."""
    path = out or folder / REPORT
    write_atomic(path, report_page(RunRecord.of(folder, summary)))
    return path


def report_page(run: RunRecord) -> str:
    """Return the page as text."""
    summary = run.summary
    metrics = summary.get("metrics") or {}
    parameters = summary.get("parameters") or {}
    rows = parameter_rows(parameters)
    drawn = [] if run.rollout is None else views(run.rollout)
    return render(
        "report.html",
        name=run.name,
        status=summary.get("status") or "unfinished",
        verdict=" ".join(verdict(summary)),
        error=summary.get("error"),
        parameters=rows,
        has_truth=any(row["truth"] for row in rows),
        error_bars=_about_errors(parameters),
        errors=error_table(metrics),
        views=drawn,
        player_title=f"Truth and models on a held-out {run.rollout.split_name} simulation" if run.rollout else "",
        no_views="" if drawn else _no_views(run),
        charts=_charts(run, metrics),
        tables=detail_tables(summary),
        phases=phase_rows(summary),
        time_text=time_text(summary),
        warnings=list(dict.fromkeys(map(str, summary.get("warnings") or ()))),
        environment=environment_rows(run.environment, summary),
        spec=run.spec,
    )


def _charts(run: RunRecord, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    rollout = run.rollout
    spectra = [SPECTRA] if rollout is not None and rollout.layout.n_axes else []
    sections = [
        (
            f"Truth and models on a held-out {rollout.split_name} simulation" if rollout else "",
            [] if rollout is None else curve_panels(rollout),
            "Rollouts from the first frame to the last.",
        ),
        (
            "Training",
            history_panels(run.metrics, run.summary, run.folder),
            "Losses of real and of generated training samples, and errors of full rollouts on held-out real data.",
        ),
        (
            "Held-out data in detail",
            [*lead_time_panels(metrics, run.data_dt), *([] if rollout is None else spectrum_panels(rollout))],
            " ".join([LEAD_TIMES, *spectra, *correlation(run.summary)]),
        ),
    ]
    if run.costs is not None:
        sections.append(("Does the surrogate pay?", [partial(cost_panel, run.costs)], " ".join(run.costs["sentences"])))
    if (found := run.posterior) is not None:
        sections.append(("Posterior of the parameters", posterior_panels(found), posterior_text(found)))
    if test := run.summary.get("physics_test"):
        sections.append(("Test of the physics", physics_test_panels(test, run.data_dt), physics_test_text(test)))
    return [
        {"title": title, "note": note, "svgs": [svg_chart(draw) for draw in panels]}
        for title, panels, note in sections
        if panels
    ]


def _about_errors(parameters: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what ± stands for; empty if there is none."""
    if budgets(parameters):
        return "± is one standard error, with the error of the grid where it is known; the error budget has its parts."
    if any(is_number(entry.get("standard_error")) for entry in parameters.values()):
        return (
            "± is one standard error, the uncertainty from noise in the data. It does not include the errors of a "
            "wrong model."
        )
    return ""


def _no_views(run: RunRecord) -> str:
    if not run.summary:
        return "The run did not end, so it has no rollouts to show."
    if run.rollout is not None or "persistence" not in (run.summary.get("metrics") or {}):
        return ""
    return "The run folder holds no rollouts to show."


def run_name(folder: Path) -> str:
    """Return a run's name in its spec, else the folder's name."""
    run = (RunFiles(folder).toml(SPEC) or {}).get("run")
    return str((run.get("name") if isinstance(run, Mapping) else None) or folder.name)


def _environment(files: RunFiles) -> Mapping[str, Any]:
    found = files.json(ENVIRONMENT)
    try:
        check(found or {}, ENVIRONMENT_SHAPE)
    except ValueError as error:
        raise files.damaged(ENVIRONMENT, error) from error
    return found or {}
