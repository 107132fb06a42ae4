"""The page of several runs: what it says of them, what it shows side by side, and where it warns."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from click.testing import CliRunner
from report_cases import EVIL, layout_of, metrics_of, rollout_of, run_folder, summary_of

from hyco_engine.cli import cli
from hyco_engine.comparing import compare_runs
from hyco_engine.report.compare_page import comparison_page, write_comparison
from hyco_engine.report.rollouts import HeldOutRollout

DATA = '[run]\nname = "small"\nseed = 0\nprecision = "float32"\n[data]\nkind = "arrays"\npath = "{data}"\n{more}'


def side(
    folder: Path,
    models: tuple[str, ...] = ("physical", "synthetic"),
    *,
    error: float = 0.02,
    nu: float = 0.0202,
    data: str = "a.npz",
    samples: int = 100,
    rollout: HeldOutRollout | None = None,
) -> Path:
    """Make a finished run with those models, whose `nu` differs from 0.02 by the relative error `off`."""
    summary = summary_of(
        trained={model: {"epochs": 1, "samples": samples, "converged": False} for model in models},
    )
    summary["metrics"] = {model: metrics_of(error) for model in models} | {"persistence": metrics_of(0.5)}
    entry = {**summary["parameters"]["nu"], "final": nu, "relative_error": abs(nu - 0.02) / 0.02}
    summary["parameters"] = {"nu": entry} if "physical" in models else {}
    rollout = rollout or rollout_of(layout_of(16))
    kept = {model: values for model, values in rollout.predictions.items() if model in models}
    run_folder(folder, attrs.evolve(rollout, predictions=kept), summary)
    more = "".join(f'[{model}]\nkind = "some"\n' for model in models)
    (folder / "spec.toml").write_text(DATA.format(data=data, more=more))
    return folder


def shown(page: str) -> Any:
    """Return the data that the page's script draws."""
    start = page.index('id="views">') + len('id="views">')
    return json.loads(page[start : page.index("</script>", start)])


def test_a_run_beside_its_baselines(tmp_path: Path) -> None:
    folders = [
        side(tmp_path / "both", error=0.02),
        side(tmp_path / "physics-only", ("physical",), error=0.04, nu=0.0204),
        side(tmp_path / "surrogate-only", ("synthetic",), error=0.023),
    ]
    page = unescape(comparison_page(compare_runs(folders)))
    assert (
        "The surrogate has the smallest error on test data in both: 0.02, against 0.023 in surrogate-only (15 % more)."
        in page
    )
    assert (
        "The physics has the smallest error on test data in both: 0.02, against 0.04 in physics-only (2 times)." in page
    )
    assert "nu is closest to the truth in both: 1 % off, against 2 % off in physics-only (2 times)." in page
    assert page.count('<td class="best">0.02</td>') == 2
    assert "<td>0.0204 ± 0.0003, 2 % off</td>" in page
    assert "Parameter nu [m^2/s]" in page
    for label in ("surrogate, both", "surrogate, surrogate-only", "physics, physics-only", "nothing changes"):
        assert f'<i class="swatch"></i>{label}</span>' in page
    assert "not comparable" not in page
    (view,) = shown(page)
    assert [panel["title"] for panel in view["panels"]] == [
        "Truth",
        "Physics, both",
        "Physics, physics-only",
        "Surrogate, both",
        "Surrogate, surrogate-only",
        "Physics, both − truth",
        "Physics, physics-only − truth",
        "Surrogate, both − truth",
        "Surrogate, surrogate-only − truth",
    ]
    assert view["panels"][2]["key"] == "run1 physical"
    rows = [row.split("</tr>")[0] for row in page.split('<th scope="row">')]
    assert [row for row in rows if row.startswith("physical</th>")] == [
        'physical</th><td class="text">some</td><td class="text">some</td><td class="text">–</td>'
    ]


def test_runs_that_are_not_comparable(tmp_path: Path) -> None:
    other = rollout_of(layout_of(16), frames=9)
    folders = [side(tmp_path / "one"), side(tmp_path / "two", data="b.npz", samples=200, error=0.01, rollout=other)]
    found = compare_runs(folders)
    assert found["notes"] == [
        "two is not comparable to one: their data differ (data.path)",
        "the physical models of two and one are not comparable: they trained on 200 and 100 samples",
        "the synthetic models of two and one are not comparable: they trained on 200 and 100 samples",
    ]
    page = unescape(comparison_page(found))
    assert "These runs are not comparable in everything." in page
    assert all(f"<li>{note}</li>" in page for note in found["notes"])
    assert 'class="best"' not in page
    # each has a picture of its own, since they saw other simulations
    assert [view["choice"] for view in shown(page)] == ["u [m]: one", "u [m]: two"]


def test_the_same_truth_is_drawn_once_and_at_most_six_rollouts_of_it(tmp_path: Path) -> None:
    page = unescape(comparison_page(compare_runs([side(tmp_path / str(k)) for k in range(4)])))
    (view,) = shown(page)
    assert len([panel for panel in view["panels"] if panel["scale"] == "value"]) == 7
    assert "The page leaves out, to stay small: Surrogate, 2; Surrogate, 3." in page
    assert "The surrogate has the smallest error on test data in 0, but the runs hardly differ (0.02 to 0.02)." in page


def test_what_diverged_is_told(tmp_path: Path) -> None:
    page = unescape(comparison_page(compare_runs([side(tmp_path / "a"), side(tmp_path / "b", error=np.nan)])))
    assert "The surrogate of b diverges." in page
    assert page.count("<td>diverged</td>") == 2


def test_folders_of_one_name_are_told_apart_and_text_stays_text(tmp_path: Path) -> None:
    one, two = (side(tmp_path / folder / EVIL.replace("/", "")) for folder in ("a", "b"))
    found = compare_runs([one, two])
    assert [row["name"] for row in found["runs"]] == [str(one), str(two)]
    page = comparison_page(found)
    assert page.count("<script>alert") == 0
    assert page.count("<script") == 2


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(side(Path("runs") / name, error=error)) for name, error in (("a-1", 0.02), ("a-2", 0.03))]
    done = CliRunner().invoke(cli, ["compare", *names])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "wrote runs/a-1-compared.html: open it in a browser"
    assert done.stdout.splitlines()[:2] == [
        "run  physics val  physics test  surrogate val  surrogate test  persistence val  persistence test  nu off by  "
        "physics samples  surrogate samples  time",
        "a-1  0.02         0.02          0.02           0.02            0.5              0.5               1 %        "
        "100              100                1 min 15 s",
    ]
    named = CliRunner().invoke(cli, ["compare", *names, "--out", "mine.html", "--json"])
    assert json.loads(named.stdout)["page"] == "mine.html"
    assert Path("mine.html").read_bytes() == Path("runs/a-1-compared.html").read_bytes()
    nowhere = CliRunner().invoke(cli, ["compare", *names, "--out", "no/page.html"])
    assert (nowhere.exit_code, nowhere.stderr) == (2, "error: cannot write page.html: there is no folder no\n")


def test_the_page_is_complete_in_itself_and_the_same_each_time(tmp_path: Path) -> None:
    found = compare_runs([side(tmp_path / "a"), side(tmp_path / "b")])
    page = write_comparison(found, tmp_path / "page.html").read_text()
    assert page == comparison_page(found)
    assert "default-src 'none'" in page
    assert 'src="' not in page
    assert len(page) < 5_000_000
