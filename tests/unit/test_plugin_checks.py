"""`plugins check NAME`: what is wrong with a plugin's kinds is said in words, and other plugins are unaffected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hyco_engine.cli import cli
from hyco_engine.testing.distributions import Site

pytest_plugins = ["hyco_engine.testing.fixtures"]

HEAD = """
from hyco_engine import ModelRecord, Record, hookimpl, option, options

@options
class Nothing:
    \"\"\"No options.\"\"\"

@hookimpl
def {hook}():
    return [{cls}(kind="under-test", summary="a test", options=Nothing, factory=build{more})]
"""
HOOKS = {
    "strategy": "hyco_strategies",
    "normalizer": "hyco_normalizers",
    "cache": "hyco_caches",
    "source": "hyco_sources",
    "tracker": "hyco_trackers",
    "surrogate": "hyco_models",
    "physics": "hyco_models",
}


def check(site: Site, what: str, build: str, *arguments: str) -> Result:
    more = {"surrogate": ', role="synthetic"', "physics": ', role="physical"'}.get(what, "")
    code = HEAD.format(hook=HOOKS[what], cls="ModelRecord" if more else "Record", more=more) + build
    site.install("under-test", modules={"under_test": code}, entry_points={"under-test": "under_test"})
    return CliRunner().invoke(cli, ["plugins", "check", "under-test", *arguments])


def lines(result: Result) -> list[str]:
    return [line.strip() for line in result.stdout.splitlines() if line.startswith("    ")]


NOT_BUILT = "FAILED: the factory builds what its hook asks for: "


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("strategy", "a Strategy"),
        ("normalizer", "a LossNormalizer"),
        ("cache", "a CacheBackend"),
        ("source", "a TrajectorySource or SampleSource"),
        ("tracker", "a Tracker"),
        ("surrogate", "a Module"),
        ("physics", "a hyco_engine.interfaces.PhysicalModel"),
    ],
)
def test_a_factory_that_returns_the_wrong_thing(site: Site, what: str, wanted: str) -> None:
    result = check(site, what, "def build(options, context):\n    return 3\n")
    assert result.exit_code == 3
    assert lines(result) == [
        "passed: 1 check",
        f"{NOT_BUILT}the factory returns a int, not {wanted}",
    ]


def test_a_factory_that_raises(site: Site) -> None:
    result = check(site, "cache", "def build(options, context):\n    return 1 / 0\n")
    assert result.exit_code == 3
    assert lines(result)[1] == (
        f"{NOT_BUILT}the factory of cache backend 'under-test', from plugin 'under-test' (under-test 1.0), failed: "
        "ZeroDivisionError: division by zero"
    )


STRATEGY = """
from hyco_engine.interfaces import Augmentation, Strategy

def build(options, context):
    return Bad()

class Bad(Strategy):
"""


def test_each_failure_says_what_is_wrong(site: Site) -> None:
    body = "    def augment(self, phase, context):\n        return Augmentation(expected_ratio=0.5 * context.alpha)\n"
    result = check(site, "strategy", STRATEGY + body)
    assert result.exit_code == 3
    assert lines(result) == [
        "passed: 10 checks",
        "FAILED: what is made is what is declared: for the synthetic model in cycle 0, with alpha 0.3 and errors "
        "physical 0.1, synthetic 0.1: train_synthetic, cycle 0: 24 real and 0 generated samples: 0 samples × weight 1 "
        "give 0 of the 24 real samples, but the plan declares 0.15, and rounding down to whole samples does not "
        "explain "
        "the difference of 0.15; correct the strategy's count, weight or expected_ratio",
    ]


def test_what_the_plugins_code_raises_is_told_with_its_line_and_once(site: Site) -> None:
    body = "    def augment(self, phase, context):\n        return context.alhpa\n"
    result = check(site, "strategy", STRATEGY + body)
    (told,) = [line for line in lines(result) if line.startswith("FAILED")]
    file = re.escape(str(site.folder / "under_test.py"))
    assert re.fullmatch(
        r"FAILED: no more is generated than is announced \(and \d more\): AttributeError: 'CycleContext' object has no "
        rf"attribute 'alhpa'.* \({file}:19\)",
        told,
    )


WRITES = """
from pathlib import Path
from hyco_engine.interfaces import Tracker

class Writes(Tracker):
    def started(self, info):
        Path("told.txt").write_text(info["name"])

def build(options, context):
    return Writes()
"""


def test_what_a_checked_plugin_writes_by_a_relative_path_does_not_stay(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    result = check(site, "tracker", WRITES)
    assert result.exit_code == 0, result.output
    assert Path.cwd() == tmp_path / "mine"
    assert list(Path.cwd().iterdir()) == []


def test_json_lists_every_check(site: Site) -> None:
    body = "    def augment(self, phase, context):\n        print('noise')\n        return None\n"
    result = check(site, "strategy", STRATEGY + body, "--json")
    assert result.exit_code == 0
    (record,) = json.loads(result.stdout)["plugins"][0]["records"]["hyco_strategies"]
    assert {entry["status"] for entry in record["checks"]} == {"passed"}
    assert {"check": "recipes are pure", "status": "passed", "message": ""} in record["checks"]
    assert "noise" in result.stderr


def test_a_source_that_needs_a_file_is_left_to_its_own_tests(site: Site) -> None:
    code = "from hyco_engine import DataError\n\ndef build(options, context):\n    raise DataError('name a file')\n"
    result = check(site, "source", code)
    assert result.exit_code == 0
    assert lines(result)[1:] == ["not checked: none of the problems of the check suits it: name a file"]


def test_options_that_a_spec_cannot_hold(site: Site) -> None:
    code = "@options\nclass Nothing:\n    value: complex = option(1j, help='odd')\n\n"
    result = check(site, "tracker", code + "def build(options, context):\n    return 3\n")
    assert result.exit_code == 3
    (told,) = [line for line in lines(result) if "default options" in line]
    assert told.startswith("FAILED: default options can be written to a spec and read back: ")


def test_failed_plugins_are_not_held_against_contracts(site: Site) -> None:
    site.install("under-test", modules={"under_test": "1 / 0\n"}, entry_points={"under-test": "under_test"})
    result = CliRunner().invoke(cli, ["plugins", "check", "under-test"])
    assert result.exit_code == 3
    assert lines(result) == []
    assert "importing 'under_test' failed: ZeroDivisionError: division by zero" in result.stdout


@pytest.mark.parametrize("name", ["builtin-strategies", "builtin-caches", "builtin-trackers", "builtin-sources"])
def test_the_built_ins_pass(name: str) -> None:
    result = CliRunner().invoke(cli, ["plugins", "check", name, "--json"])
    assert result.exit_code == 0, result.stdout
    records: Mapping[str, Any] = json.loads(result.stdout)["plugins"][0]["records"]
    found = [entry["status"] for ours in records.values() for record in ours for entry in record["checks"]]
    assert "failed" not in found


def test_what_a_factory_reads_of_another_hooks_context_goes_on_working_and_is_told(site: Site) -> None:
    code = (
        "from hyco_engine.interfaces import BuildContext, Tracker\n\n"
        "def build(options, context: BuildContext) -> Tracker:\n"
        "    assert context.layout is None and context.parameters == {}\n"
        "    return Tracker()\n"
    )
    result = check(site, "tracker", code)
    assert result.exit_code == 0
    deprecated = [line for line in lines(result) if line.startswith("deprecated: a TrackerContext has no ")]
    assert [line.split("'")[1] for line in deprecated] == ["layout", "parameters"]
    assert all("under_test.py:" in line for line in deprecated)
