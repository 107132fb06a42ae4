"""The resolved spec loads again to an equal one; no mutated spec gets past the errors of the engine."""

from __future__ import annotations

import copy
import math
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import attrs
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import error_naming
from spec_kinds import GOOD, make_registry

from hyco_engine.errors import Problem, SpecError
from hyco_engine.spec.dumping import dump_spec, plain
from hyco_engine.spec.loading import load_spec, spec_from_dict

REGISTRY = make_registry()

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NAMES = st.text(alphabet="abc._-1", min_size=1, max_size=5).filter(lambda name: name[0] not in ".-")
PATHS = st.text(alphabet="ab/.\"' é", min_size=1, max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
POSITIVE = st.floats(min_value=1e-300, max_value=1e300)


def maybe(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


OPTIMISERS = maybe(lr=POSITIVE, betas=st.tuples(*[st.floats(0, 0.999)] * 2).map(list))
NORMALIZERS = st.just({"kind": "manual"}) | st.fixed_dictionaries(
    {"kind": st.just("batch-stat")}, optional={"momentum": st.floats(0, 0.99)}
)
TERMS = st.dictionaries(TEXT, maybe(scale=POSITIVE | st.just("data"), weight=st.floats(0, 1e9)), max_size=2)
LOSS_TABLE = maybe(normalizer=NORMALIZERS, terms=TERMS)
PARAMETERS = st.one_of(
    maybe(init=NUMBERS, learn=st.booleans(), field=st.booleans(), transform=st.sampled_from(["auto", "linear", "log"])),
    st.just({"bounds": [-math.inf, math.inf], "init": 0}),
    maybe(init=st.fixed_dictionaries({"file": PATHS}) | maybe(offset=NUMBERS, scale=NUMBERS, waves=st.integers(1, 9))),
)
SPECS = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {"kind": st.just("arrays"), "path": PATHS},
            optional={
                "also": st.lists(PATHS, max_size=2),
                "name": NAMES,
                "dt": POSITIVE,
                "num_frames": st.integers(9, 99),
                "fields": maybe(dynamic=st.lists(TEXT, unique=True, max_size=3)),
                "split": maybe(by=st.sampled_from(["simulation", "time"]), train=st.just("0:30"), val=st.just("30:")),
                "boundary": st.sampled_from(["periodic", 0, [0.0, 1.5], {"x": {"lower": 1, "upper": "symmetric"}}]),
            },
        ),
        "synthetic": st.fixed_dictionaries(
            {"kind": st.just("unet")},
            optional={
                "width": st.integers(-(2**63), 2**63 - 1),
                "dropout": st.floats(0, 0.999),
                "dilations": st.lists(st.integers(1, 9), max_size=3),
                "residual": st.booleans(),
                "heads": st.dictionaries(TEXT, OPTIMISERS, max_size=2),
                "inner": OPTIMISERS,
                "norm": NORMALIZERS,
            },
        ),
    },
    optional={
        "run": maybe(name=NAMES, seed=st.integers(0, 2**63 - 1), device=st.sampled_from(["cpu", "cuda:1"])),
        "paths": maybe(data=PATHS, cache=PATHS, runs=PATHS),
        "physical": st.fixed_dictionaries(
            {"kind": st.just("burgers")},
            optional={"forcing": PATHS, "dt": POSITIVE, "parameters": st.dictionaries(TEXT, PARAMETERS, max_size=3)},
        ),
        "augmentation": maybe(
            alpha=st.floats(0, 9),
            cache=maybe(kind=st.sampled_from(["auto", "memory"]), memory_budget_gb=POSITIVE, directory=TEXT),
        ),
        "loss": maybe(normalizer=NORMALIZERS, terms=TERMS, physical=LOSS_TABLE, synthetic=LOSS_TABLE),
        "training": maybe(physical=maybe(lr=POSITIVE), synthetic=maybe(clip_grad_norm=POSITIVE)),
        "trackers": maybe(csv=maybe(every=st.integers(1, 9), file=PATHS)),
    },
)


@given(SPECS)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_round_trip(data: dict[str, Any]) -> None:
    spec = spec_from_dict(data, REGISTRY, folder="/some/folder").spec
    text = dump_spec(spec)
    again = spec_from_dict(tomllib.loads(text), REGISTRY, folder="/elsewhere").spec
    assert again == spec
    assert dump_spec(again) == text


def test_nothing_is_left_to_defaults() -> None:
    table = tomllib.loads(dump_spec(spec_from_dict(tomllib.loads(GOOD), REGISTRY).spec))
    assert list(table) == [
        "run",
        "paths",
        "data",
        "physical",
        "synthetic",
        "augmentation",
        "loss",
        "training",
        "trackers",
    ]
    assert table["run"] == {
        "name": "run",
        "seed": 0,
        "cycles": 2,
        "budget": "auto",
        "device": "auto",
        "precision": "auto",
        "threads": "auto",
        "shards": "auto",
        "reduction": "exact",
        "checkpoint_minutes": 10.0,
    }
    assert table["synthetic"]["norm"] == {"kind": "batch-stat", "momentum": 0.9}
    assert table["training"]["physical"]["lr"] == 3e-2


def test_a_none_that_would_be_lost_is_refused() -> None:
    spec = spec_from_dict(tomllib.loads(GOOD), REGISTRY).spec
    odd = attrs.evolve(spec, run=attrs.evolve(spec.run, seed=None))
    with error_naming(SpecError, 0, key="run.seed"):
        dump_spec(odd)


FULL = dump_spec(
    spec_from_dict(
        tomllib.loads(GOOD + "[trackers.csv]\n[loss.terms.u]\n[loss.physical.normalizer]\n"), REGISTRY, folder="/"
    ).spec
)
JUNK = st.one_of(
    st.sampled_from(
        [
            True,
            0,
            -1,
            2**63 - 1,
            0.5,
            -0.0,
            1e308,
            math.inf,
            -math.inf,
            math.nan,
            "",
            "auto",
            "a\0b",
            "../x",
            "0:3",
            "x" * 300,
        ]
    ),
    st.sampled_from([[], [1], [[]], [{"kind": 1}], {}, {"kind": "unet"}, {"kind": {}}, {"": {"": 1}}, {"file": []}]),
    st.dates(),
    TEXT,
)


def tables_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [table, *(found for value in table.values() if isinstance(value, dict) for found in tables_of(value))]


@st.composite
def mutated_texts(draw: st.DrawFn) -> str:
    data = copy.deepcopy(tomllib.loads(FULL))
    for _ in range(draw(st.integers(0, 4))):
        table = draw(st.sampled_from(tables_of(data)))
        key = draw(st.sampled_from([*table, "kind", "options", "x y"]))
        match draw(st.sampled_from(["put", "drop", "rename"])):
            case "put":
                table[key] = copy.deepcopy(draw(JUNK))
            case "drop":
                table.pop(key, None)
            case "rename":
                table[key + draw(st.sampled_from(["s", ".", " "]))] = table.pop(key, 0)
    text = tomli_w.dumps(data)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", "\n", '"', "[", "=", "#", "\x00", "é", "{"])) + text[at + 1 :]
    return text


SETS = st.lists(
    st.builds(
        "{}={}".format,
        st.sampled_from(
            ["run.cycles", "physical.kind", "physical", "augmentation.cache.kind", "a.b", "", 'data."path"', "["]
        ),
        st.sampled_from(["1", "'heat'", "abc", "True", "{}", "{kind='heat'}", "[1, 2", "nan", "'memory'", ""]),
    ),
    max_size=2,
)


@given(mutated_texts(), SETS)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_mutated_specs(text: str, overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.toml"
        path.write_bytes(text.encode())
        told: tuple[Problem, ...] = ()
        try:
            loaded = load_spec(path, REGISTRY, overrides)
        except SpecError as error:
            told = error.problems
        else:
            written = tomllib.loads(dump_spec(loaded.spec))
            assert spec_from_dict(written, REGISTRY, folder=os.sep).spec == loaded.spec
        for problem in told:
            assert problem.file in (path, Path("--set"))
            assert problem.message
            assert problem.line is None or 1 <= problem.line <= text.count("\n") + 1


def test_a_path_whose_bytes_are_not_utf8_is_refused() -> None:
    with error_naming(
        SpecError,
        "data.path: /data/m\\udcfcller.npz has bytes that are not UTF-8, which a spec cannot hold: rename the file or "
        "folder, or make a link to it with another name (ln -s)",
    ):
        plain({"path": Path("/data/m\udcfcller.npz")}, ("data",))
