"""`--set`: single keys given on the command line or by a program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spec_kinds import GOOD, make_registry

from hyco_engine.errors import SpecError
from hyco_engine.spec.loading import LoadedSpec, load_spec

REGISTRY = make_registry()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedSpec]:
    monkeypatch.chdir(tmp_path)

    def load(overrides: Any, text: str = GOOD) -> LoadedSpec:
        Path("s.toml").write_text(text)
        return load_spec("s.toml", REGISTRY, overrides)

    return load


def test_values_of_all_types(load: Callable[..., LoadedSpec]) -> None:
    spec = load(
        [
            "run.cycles = 7",
            "run.name='bc'",
            'synthetic."residual"=false',
            "synthetic.dilations=[1,\n2]",
            "augmentation.cache={memory_budget_gb=1}",
            "physical.parameters.nu.init=0.2 # why not",
            "loss.terms.'a=b'.weight=2",
            "trackers.csv.every=3",
            "run.cycles=8",
        ]
    ).spec
    assert spec.synthetic is not None
    assert spec.physical is not None
    assert (spec.run.cycles, spec.run.name) == (8, "bc")
    assert (spec.synthetic.options.residual, spec.synthetic.options.dilations) == (False, (1, 2))
    assert spec.augmentation.cache.memory_budget_gb == 1.0
    assert spec.physical.parameters["nu"].init == 0.2
    assert spec.physical.parameters["nu"].bounds == (1e-5, float("inf"))
    assert spec.loss.terms["a=b"].weight == 2.0
    assert spec.trackers["csv"].options.every == 3


def test_a_table_is_replaced_and_a_dotted_key_added(load: Callable[..., LoadedSpec]) -> None:
    spec = load(["physical.parameters={nu={init=1}}", "physical.parameters.mu.init=2"]).spec
    assert spec.physical is not None
    assert {name: one.init for name, one in spec.physical.parameters.items()} == {"nu": 1.0, "mu": 2.0}
    assert spec.physical.parameters["nu"].bounds is None


def test_a_mapping(load: Callable[..., LoadedSpec]) -> None:
    spec = load({"run.cycles": 0, "data.also": (Path("v.npy"),), "loss.terms": {"u": {"weight": 2}}}).spec
    assert spec.run.cycles == 0
    assert spec.data.options.also == (Path.cwd() / "v.npy",)
    assert spec.loss.terms["u"].weight == 2.0


def test_one_text_is_one_override(load: Callable[..., LoadedSpec]) -> None:
    assert load("run.cycles=9").spec.run.cycles == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.cycles=abc", "run.cycles: 'abc' is not a TOML value; quote strings: run.cycles='\"abc\"'"),
        ("run.cycles", "run.cycles: has no value; write key=value"),
        ("run.cycles=", "run.cycles: '' is not a TOML value; TOML has no empty value: leave the key out"),
        ("physical=None", "physical: 'None' is not a TOML value; TOML has no empty value: leave the key out"),
        ("synthetic.residual=True", "synthetic.residual: 'True' is not a TOML value; did you mean true?"),
        ("synthetic.residual=off", "synthetic.residual: 'off' is not a TOML value; did you mean false?"),
        ("data.path=/a/b.npy", "data.path: '/a/b.npy' is not a TOML value; quote strings: data.path='\"/a/b.npy\"'"),
        (
            "data.also=[a]",
            "data.also: '[a]' is not a TOML value; arrays are [1, 2], tables {a = 1}, strings '\"text\"'",
        ),
        (
            "run.cycles=1\nrun.seed=2",
            "run.cycles: '1\\nrun.seed=2' is not a TOML value; arrays are [1, 2], tables {a = 1}, strings '\"text\"'",
        ),
        ("run cycles=1", "run cycles: 'run cycles' is not a key; write a.b=value"),
        ("=1", ": '' is not a key; write a.b=value"),
        ("[run]\ncycles=1", "[run]\ncycles: '[run]\\ncycles' is not a key; write a.b=value"),
        ("a=" + "[" * 5000, None),
        ("run.cycles=1.5", "run.cycles: must be an integer, not 1.5"),
        ("run.cycles=2020-01-01", "run.cycles: must be an integer, not the date 2020-01-01"),
        (
            "run.cycels=1",
            "run.cycels: unknown key; allowed: name, seed, cycles, budget, device, precision, threads, shards, "
            "reduction, checkpoint_minutes; "
            "did you mean 'cycles'?",
        ),
        ("data.path.x=1", "data.path.x: data.path is not a table, so it has no keys to set"),
        ("physical={}", "physical.kind: required but missing; installed: burgers, heat"),
        ("physical={kind='heat', implicit=1}", "physical.implicit: must be true or false, not 1"),
        ("data=1", "data: must be a table, not 1"),
    ],
)
def test_refused(load: Callable[..., LoadedSpec], override: str, message: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        load([override])
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (Path("--set"), None)
    if message is not None:
        assert str(problem) == (f"--set: {message}" if not message.startswith(":") else f"--set{message}")


def test_refused_keys_of_a_mapping(load: Callable[..., LoadedSpec]) -> None:
    with pytest.raises(SpecError) as caught:
        load({"run.cycles = 1\na": 1, "": 2, "run..x": 3})
    assert [problem.message for problem in caught.value.problems] == [
        "'run.cycles = 1\\na' is not a key; write it like a.b",
        "'' is not a key; write it like a.b",
        "'run..x' is not a key; write it like a.b",
    ]


def test_mistakes_of_file_and_overrides_are_told_together(load: Callable[..., LoadedSpec]) -> None:
    with pytest.raises(SpecError) as caught:
        load(["run.seed=-1", "run.cycles=x"], GOOD.replace("cycles", "cycels"))
    assert [(str(problem.file), problem.line, problem.key) for problem in caught.value.problems] == [
        ("s.toml", 2, "run.cycels"),
        ("--set", None, "run.cycles"),
        ("--set", None, "run.seed"),
    ]
    with pytest.raises(SpecError) as caught:
        load(["run.cycles=x"], "a = ")
    assert len(caught.value.problems) == 2


def test_a_changed_kind_drops_what_it_lacks(load: Callable[..., LoadedSpec]) -> None:
    text = GOOD.replace('kind = "burgers"', 'kind = "burgers"\nsubsteps = 4\nscheme = "euler"\ndt = 0.1')
    loaded = load(["physical.kind='heat'", "physical.implicit=true"], text)
    physical = loaded.spec.physical
    assert physical is not None
    assert (physical.kind, physical.dt, list(physical.parameters)) == ("heat", 0.1, ["nu"])
    assert (physical.options.substeps, physical.options.implicit) == (4, True)
    assert loaded.notes == ("physical is now 'heat', which has no scheme: dropped from the spec",)


def test_a_kind_that_was_the_default_is_changed_too(load: Callable[..., LoadedSpec]) -> None:
    text = GOOD + "[loss.normalizer]\nkind = 'batch-stat'\nmomentum = 0.5\n"
    loaded = load(["loss.normalizer.kind='manual'"], text)
    assert loaded.notes == ("loss.normalizer is now 'manual', which has no momentum: dropped from the spec",)


@pytest.mark.parametrize(
    "overrides",
    [
        ["physical.kind='burgers'"],  # the kind it had
        ["physical.kind='heat'", "physical.shceme='euler'"],  # set together with the kind
    ],
)
def test_what_is_not_dropped(load: Callable[..., LoadedSpec], overrides: list[str]) -> None:
    text = GOOD.replace('kind = "burgers"', 'kind = "burgers"\nshceme = "euler"')
    with pytest.raises(SpecError, match=r"physical\.shceme: unknown key for"):
        load(overrides, text)
