"""What a wrong spec is told, and what a right one becomes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from spec_kinds import GOOD, make_registry

from hyco_engine.data.settings import BoundarySetting, parse_range
from hyco_engine.errors import DataError, PluginError, SpecError
from hyco_engine.hooks.records import ModelRecord, Record
from hyco_engine.physics.settings import ArrayFile, Profile
from hyco_engine.spec.choices import NormalizerChoice
from hyco_engine.spec.loading import MAX_BYTES, LoadedSpec, load_spec, spec_from_dict
from hyco_engine.spec.options import option, options

REGISTRY = make_registry()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory, so that file names in messages are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[..., LoadedSpec]:
    def load(text: str, overrides: Any = ()) -> LoadedSpec:
        (folder / "s.toml").write_text(text, encoding="utf-8")
        return load_spec("s.toml", REGISTRY, overrides)

    return load


@pytest.fixture
def errors(load: Callable[..., LoadedSpec]) -> Callable[..., list[str]]:
    def errors(text: str, overrides: Any = ()) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load(text, overrides)
        return str(caught.value).splitlines()

    return errors


TEN_MISTAKES = """\
[run]
cycels = 3
seed = -1

[data]
kind = "arrays"
num_predict_steps = 2.0
split = {train = "0:30", val = "25:33"}

[physical]
kind = "burgesr"
parameters.nu = {init = 1.5, bounds = [0.1, 1.0]}

[synthetic]
kind = "unet"
residual = "false"
dilations = "124"

[augmentation.cache]
kind = "disc"
"""


def test_ten_mistakes(errors: Callable[..., list[str]]) -> None:
    assert errors(TEN_MISTAKES) == [
        "s.toml:2: run.cycels: unknown key; allowed: name, seed, cycles, budget, device, precision, threads, shards, "
        "reduction, checkpoint_minutes; did you mean 'cycles'?",
        "s.toml:3: run.seed: must be >= 0, not -1",
        "s.toml:5: data.path: required but missing (the file)",
        "s.toml:7: data.num_predict_steps: must be an integer, not 2.0",
        "s.toml:8: data.split: the ranges of a split must not overlap: train '0:30' and val '25:33'",
        "s.toml:11: physical.kind: unknown physical model 'burgesr'; did you mean 'burgers'?; installed: burgers, heat",
        "s.toml:12: physical.parameters.nu.init: 1.5 is not between the bounds 0.1 and 1, which are open; "
        "start strictly between them or widen the bounds",
        "s.toml:16: synthetic.residual: must be true or false, not 'false'; remove the quotes",
        "s.toml:17: synthetic.dilations: must be an array (each entry an integer), not '124'",
        "s.toml:20: augmentation.cache.kind: unknown cache backend 'disc'; installed: memory; or 'auto'",
    ]


def test_problems_are_data(load: Callable[..., LoadedSpec]) -> None:
    with pytest.raises(SpecError) as caught:
        load(TEN_MISTAKES)
    assert caught.value.exit_code == 2
    first = caught.value.problems[0]
    assert (first.file, first.line, first.key) == (Path("s.toml"), 2, "run.cycels")


def _with(key: str, value: str) -> str:
    """GOOD with one more key."""
    table, _, name = key.partition(".")
    header = f"[{table}]\n"
    text = GOOD if header in GOOD else f"{GOOD}\n{header}"
    return text.replace(header, f"{header}{name} = {value}\n")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("synthetic.residual", '"false"', "must be true or false, not 'false'; remove the quotes"),
        ("synthetic.residual", "0", "must be true or false, not 0"),
        ("synthetic.width", "1.9", "must be an integer, not 1.9"),
        ("synthetic.width", "true", "must be an integer, not true"),
        ("synthetic.width", '"8"', "must be an integer, not '8'; remove the quotes"),
        ("synthetic.width", "9223372036854775808", "must be an integer, not a number beyond 64 bits"),
        ("synthetic.width", "0x" + "f" * 5000, "must be an integer, not a number beyond 64 bits"),
        ("synthetic.levels", "7", "must be >= 1 and <= 6, not 7"),
        ("synthetic.dropout", "true", "must be a number, not true"),
        ("synthetic.dropout", "nan", "must be a number, not nan"),
        ("synthetic.dropout", "1", "must be >= 0 and < 1, not 1.0"),
        ("synthetic.dropout", "2020-01-01", "must be a number, not the date 2020-01-01"),
        ("synthetic.activation", '"slu"', "must be 'silu' or 'gelu', not 'slu'; did you mean 'silu'?"),
        ("synthetic.activation", "1", "must be 'silu' or 'gelu', not 1"),
        ("synthetic.dilations", "[1, 0]", "must be >= 1, not 0"),
        ("synthetic.heads", "1", "must be a table (each entry a table), not 1"),
        ("synthetic.inner", "[]", "must be a table, not an array"),
        ("synthetic.inner", "{betas = [0.9]}", "must be an array of 2 entries (a number, a number), not of 1"),
        ("synthetic.norm", "{momentum = 0.5, kind = 'manual'}", "unknown key for 'manual'; allowed: kind"),
        (
            "run.name",
            '"a/b"',
            "'a/b' cannot name a folder: use 1 to 100 letters, digits, '_', '-' and '.', "
            "and do not start with '-' or '.'",
        ),
        ("run.device", '"gpu"', "must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps', not 'gpu'"),
        ("data.also", '"v.npy"', "must be an array (each entry a path (a string)), not 'v.npy'; write ['v.npy']"),
        ("data.also", '["a", "b\\u0000"]', "must be a path (a string), not 'b\\x00'"),
        (
            "data.split",
            '{by = "tiem"}',
            "must be 'simulation', 'time', 'sensor' or 'value', not 'tiem'; did you mean 'time'?",
        ),
        ("data.split", '{val = "30"}', "must be a range start:stop such as '0:30' or '30:', not '30'"),
        ("data.split", '{val = "3:3"}', "the range '3:3' is empty: start must be below stop, which is not part of it"),
        ("data.fields", '{dynamic = ["u"], static = ["u"]}', "a field must be listed once, as dynamic or as static: u"),
        (
            "data.num_predict_steps",
            "3\nnum_frames = 3",
            "a window of 3 steps needs 4 frames, but num_frames is 3; predict fewer steps or use more frames",
        ),
        (
            "data.boundary",
            '"cyclic"',
            "unknown boundary 'cyclic'; did you mean 'periodic'? Use a number, {normal, tangential}, or one of "
            "periodic, zero-gradient, symmetric, antisymmetric, reflect, antireflect",
        ),
        (
            "data.boundary",
            '"cycle"',
            "unknown boundary 'cycle': use a number, {normal, tangential}, or one of "
            "periodic, zero-gradient, symmetric, antisymmetric, reflect, antireflect, or a formula of parameters, "
            "which need start values in physical.parameters",
        ),
        (
            "data.boundary.x",
            '"perodic"',
            "unknown boundary 'perodic'; did you mean 'periodic'? Use a number, {normal, tangential}, or one of "
            "periodic, zero-gradient, symmetric, antisymmetric, reflect, antireflect",
        ),
        (
            "data.boundary.x.lower",
            '"neuman"\nboundary.x.upper = 0.0',
            "unknown boundary 'neuman'; did you mean 'zero-gradient'? Use a number, {normal, tangential}, or one of "
            "periodic, zero-gradient, symmetric, antisymmetric, reflect, antireflect",
        ),
        (
            "data.boundary.x.upper.normal",
            '"Dirichlet"\nboundary.x.upper.tangential = 0.0\nboundary.x.lower = 0.0',
            "unknown boundary 'Dirichlet'; did you mean a number, such as 0.0? Use a number, {normal, tangential}, or "
            "one of periodic, zero-gradient, symmetric, antisymmetric, reflect, antireflect",
        ),
        ("data.boundary.x", "{lowr = 0.0, upper = 0.0}", "the sides of an axis are lower and upper, not lowr, upper"),
        ("physical.dt", "inf", "must be finite, not inf"),
        ("physical.parameters.a", "{init = true}", "must be a number or a table, not true"),
        ("physical.parameters.a", "{init = {file = 3}}", "must be a path (a string), not 3"),
        ("physical.parameters.a", "{bounds = [1, 1]}", "the lower bound must be below the upper one, not 1 and 1"),
        (
            "physical.parameters.a",
            "{bounds = [0, 1], init = {offset = 0.5}}",
            "1.5 is not between the bounds 0 and 1, which are open; start strictly between them or widen the bounds",
        ),
        ("augmentation.alpha", "-0.1", "must be >= 0, not -0.1"),
        ("loss.terms.u", "{scale = 'date'}", "must be a number or 'data', not 'date'; did you mean 'data'?"),
        ("trackers.csv", "true", "must be a table, not true"),
        ("trackers.csv", "{kind = 'csv'}", "unknown key for 'csv'; allowed: file, every"),
        ("trackers.cvs", "{}", "unknown tracker 'cvs'; did you mean 'csv'?; installed: csv"),
    ],
)
def test_one_mistake(errors: Callable[..., list[str]], key: str, value: str, message: str) -> None:
    text = _with(key, value)
    line = 1 + text[: text.index(f"{key.partition('.')[2]} = {value}")].count("\n")
    (told,) = errors(text)
    assert told.startswith(f"s.toml:{line}: {key}")
    assert told.endswith(f": {message}")


def test_accepted_as_written(load: Callable[..., LoadedSpec]) -> None:
    spec = load(
        GOOD.replace('kind = "unet"', 'kind = "unet"\ndropout = 0\nheads.a.betas = [0, 0.5]\ndilations = [1, 2]')
        + "[physical.parameters.a]\ninit = {profile = 'sin-squared', scale = 2}\n"
        + "[physical.parameters.b]\ninit.file = 'b.npy'\n"
        + "[loss.terms]\nu.scale = 'data'\nv.scale = 2\n"
        + "[loss.physical.normalizer]\nkind = 'batch-stat'\n"
        + "[trackers.csv]\nevery = 2\n"
    ).spec
    assert spec.physical is not None
    assert spec.synthetic is not None
    assert spec.physical.parameters["nu"].bounds == (1e-5, float("inf"))
    assert spec.physical.parameters["a"].init == Profile(scale=2.0)
    assert isinstance(spec.physical.parameters["b"].init, ArrayFile)
    assert (type(spec.synthetic.options.dropout), spec.synthetic.options.dilations) == (float, (1, 2))
    assert spec.synthetic.options.heads["a"].betas == (0.0, 0.5)
    assert (spec.loss.terms["u"].scale, spec.loss.terms["v"].scale) == ("data", 2.0)
    assert spec.loss.physical.normalizer is not None
    assert spec.loss.physical.normalizer.options.momentum == 0.9
    assert spec.loss.synthetic.normalizer is None
    assert (spec.trackers["csv"].kind, spec.trackers["csv"].options.every) == ("csv", 2)


def test_every_choice_has_its_options(load: Callable[..., LoadedSpec]) -> None:
    spec = load(GOOD).spec
    assert spec.synthetic is not None
    assert type(spec.loss.normalizer.options).__name__ == "NoOptions"
    assert type(spec.augmentation.options).__name__ == "NoOptions"
    assert (spec.augmentation.cache.kind, spec.augmentation.cache.options) == ("auto", None)
    assert spec.synthetic.options.norm.options.momentum == 0.9


def test_part_of_a_table_keeps_the_rest_of_the_default_where_it_stands(load: Callable[..., LoadedSpec]) -> None:
    spec = load(
        GOOD.replace('kind = "unet"', 'kind = "unet"\ninner.betas = [0.1, 0.2]\nnorm.momentum = 0.5')
        + "[training.physical]\nbatch_size = 8\n"
    ).spec
    assert spec.synthetic is not None
    settings = spec.training.physical
    assert (settings.batch_size, settings.epochs_per_cycle, settings.lr) == (8, "auto", 3e-2)
    assert (spec.synthetic.options.inner.lr, spec.synthetic.options.inner.betas) == (0.5, (0.1, 0.2))
    norm = spec.synthetic.options.norm
    assert isinstance(norm, NormalizerChoice)
    assert (norm.kind, norm.options.momentum) == ("batch-stat", 0.5)


def test_boundaries(load: Callable[..., LoadedSpec]) -> None:
    written = {"x": "periodic", "y": {"lower": 1.0, "upper": "symmetric"}}
    spec = load(_with("data.boundary", '{x = "periodic", y = {lower = 1.0, upper = "symmetric"}}')).spec
    assert spec.data.options.boundary == BoundarySetting(written)


@pytest.mark.parametrize("value", ["nan", "inf", "[0.0, nan]", "[true]", "{x = -inf}"])
def test_boundary_values_are_finite_numbers(load: Callable[..., LoadedSpec], value: str) -> None:
    with pytest.raises(SpecError, match=r"data\.boundary(\.x)?: (a boundary value must be finite|expected a number)"):
        load(_with("data.boundary", value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[run\n", "s.toml:1: is not valid TOML: expected ']' at the end of a table declaration at column 5"),
        ("[run]\nname = 'a'\nname = 'b'\n", "s.toml:3: is not valid TOML: cannot overwrite a value at column 11"),
        ("[run]\nname = True\n", "s.toml:2: is not valid TOML: invalid value at column 8"),
        ('a = """\n\n', "s.toml:1: is not valid TOML: unterminated string (at end of document)"),
        ("", "s.toml: data.kind: required but missing; installed: arrays"),
        ("a = " + "[" * 5000 + "]" * 5000, "s.toml: is nested too deeply"),
        ("a = " + "1" * 5000, None),
        (
            "\ufeff" + GOOD.replace("cycles", "cycels"),
            "s.toml:2: run.cycels: unknown key; allowed: name, seed, cycles, budget, device, precision, threads, "
            "shards, reduction, checkpoint_minutes; did you mean 'cycles'?",
        ),
        (
            GOOD.replace('kind = "burgers"\n', ""),
            "s.toml:8: physical.kind: required but missing; installed: burgers, heat",
        ),
        (GOOD.replace('kind = "burgers"', "kind = 3"), "s.toml:9: physical.kind: must be a string, not 3"),
        (
            GOOD.replace('kind = "burgers"', 'kind = "unet"'),
            "s.toml:9: physical.kind: 'unet' is a synthetic model, but a physical one is needed; "
            "installed: burgers, heat",
        ),
        (
            "[data]\nkind = 'arrays'\npath = 'u'\n",
            "s.toml: there is neither [physical] nor [synthetic], so there is nothing to train; add one of them",
        ),
        ("[[run]]\n" + GOOD.partition("\n\n")[2], "s.toml:1: run: must be a table, not an array"),
    ],
)
def test_whole_files(errors: Callable[..., list[str]], text: str, expected: str | None) -> None:
    told = errors(text)
    assert told[0].startswith("s.toml") if expected is None else told[0] == expected
    assert len(told) == (2 if text == "" else 1)


def test_files_that_cannot_be_read(folder: Path) -> None:
    (folder / "latin.toml").write_bytes(b"[run]\nname = '\xe9'\n")
    (folder / "large.toml").write_bytes(b"#" * (MAX_BYTES + 1))
    expected = {
        "none.toml": "none.toml: there is no such file; `hyco-engine init` writes a spec to start from",
        ".": ".: is a folder; name the spec file in it",
        "latin.toml": "latin.toml: is not UTF-8 text (byte 14); save it as UTF-8",
        "large.toml": "large.toml: is larger than 1000000 bytes, so it is probably not a spec",
        "latin.toml/x": "latin.toml/x: Not a directory",
        "a\0b": "a\0b: embedded null byte",
    }
    for path, message in expected.items():
        with pytest.raises(SpecError) as caught:
            load_spec(path, REGISTRY)
        assert str(caught.value) == message


def test_baselines(load: Callable[..., LoadedSpec]) -> None:
    head, physical, synthetic = GOOD.partition("[physical]")[0], *GOOD.partition("[physical]")[2].split("[synthetic]")
    assert load(f"{head}[physical]{physical}").spec.synthetic is None
    assert load(f"{head}[synthetic]{synthetic}").spec.physical is None


def test_paths_start_where_they_were_written(load: Callable[..., LoadedSpec], folder: Path) -> None:
    (folder / "sub").mkdir()
    text = GOOD.replace('path = "u.npy"', 'path = "u.npy"\nalso = ["v.npy", "/abs/w.npy"]').replace(
        'kind = "burgers"', 'kind = "burgers"\nforcing = "f.npy"\nparameters.mu.init.file = "../mu.npy"'
    )
    (folder / "sub" / "s.toml").write_text(f'paths.data = "raw"\n{text}\n[trackers.csv]\n')
    spec = load_spec("sub/s.toml", REGISTRY).spec
    assert spec.physical is not None
    assert spec.paths.data == folder / "sub/raw"
    assert (spec.paths.cache, spec.paths.runs) == (Path("cache"), Path("runs"))
    assert spec.data.options.path == folder / "sub/raw/u.npy"
    assert spec.data.options.also == (folder / "sub/raw/v.npy", Path("/abs/w.npy"))
    assert spec.physical.options.forcing == folder / "sub/f.npy"
    assert spec.physical.parameters["mu"].init == ArrayFile(file=folder / "sub/../mu.npy")
    assert spec.trackers["csv"].options.file == Path("metrics.csv")

    changed = load_spec("sub/s.toml", REGISTRY, ["paths.data='raw2'", "physical.forcing='f'", "data.also=['x']"]).spec
    assert changed.physical is not None
    assert changed.paths.data == folder / "raw2"
    assert changed.data.options.path == folder / "raw2/u.npy"
    assert changed.data.options.also == (folder / "x",)
    assert changed.physical.options.forcing == folder / "f"


def test_paths_of_a_spec_without_a_file(folder: Path) -> None:
    data = {"data": {"kind": "arrays", "path": Path("u.npy")}, "synthetic": {"kind": "unet"}, "physical": None}
    assert spec_from_dict(data, REGISTRY).spec.data.options.path == folder / "u.npy"
    assert spec_from_dict(data, REGISTRY, folder="/a").spec.data.options.path == Path("/a/u.npy")
    with pytest.raises(SpecError) as caught:
        spec_from_dict(data | {"run": {1: 2, "name": None}}, REGISTRY, {"data.dt": "1", "run.seed": object()})
    assert str(caught.value).splitlines() == [
        "run.name: must be a string, not nothing",
        "overrides: run.seed: must be an integer, not an object of type object",
        "run.1: unknown key; allowed: name, seed, cycles, budget, device, precision, threads, shards, "
        "reduction, checkpoint_minutes",
        "overrides: data.dt: must be a number, not '1'; remove the quotes",
    ]


def test_later_errors_are_located(load: Callable[..., LoadedSpec]) -> None:
    loaded = load(GOOD, ["data.split.val='3:'"])
    assert str(loaded.locate(DataError("no such variable", key="data.path"))) == "s.toml:6: data.path: no such variable"
    assert str(loaded.locate(DataError("is empty", key="data.split.val"))) == "--set: data.split.val: is empty"
    assert str(loaded.locate(DataError("odd"))) == "odd"


def test_a_plugin_in_trouble_is_a_plugin_error_unless_the_spec_is_wrong_too(folder: Path) -> None:
    @options
    class Strange:
        thing: set[int] = option(attrs.Factory(set), help="no type of TOML")

    registry = make_registry()
    record = ModelRecord(kind="strange", summary="s", options=Strange, factory=lambda o, c: o, role="physical")
    registry.register(record, distribution="strange", version="1")
    (folder / "s.toml").write_text(GOOD.replace('"burgers"', '"strange"'))
    with pytest.raises(PluginError, match=r"s.toml:9: physical.kind: the option class .*Strange cannot be used: set"):
        load_spec("s.toml", registry)
    with pytest.raises(SpecError):
        load_spec("s.toml", registry, ["run.cycles=-1"])


def test_checks_of_plugin_authors(folder: Path) -> None:
    @options
    class Checked:
        low: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))
        high: int = attrs.field(default=1)

        @high.validator
        def _above(self, attribute: object, value: int) -> None:
            if value <= self.low:
                raise ValueError("must be above low")

    Checked.__annotations__ = {"low": int, "high": int}
    attrs.resolve_types(Checked, globalns={}, localns={})
    registry = make_registry()
    record = Record(kind="checked", summary="s", options=Checked, factory=lambda o, c: o)
    registry.register(record, distribution="checked", version="1", hook="hyco_strategies")
    (folder / "s.toml").write_text(GOOD + "[augmentation]\nkind = 'checked'\nlow = 3\n")
    for overrides, told in [
        (["augmentation.high=2"], "--set: augmentation.high: must be above low"),
        (["augmentation.low='x'"], "--set: augmentation.low: must be an integer, not 'x'"),
    ]:
        with pytest.raises(SpecError) as caught:
            load_spec("s.toml", registry, overrides)
        assert str(caught.value) == told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:30", slice(0, 30)),
        (":3", slice(None, 3)),
        ("3:", slice(3, None)),
        (":", slice(None)),
        ("-3:-1", slice(-3, -1)),
    ],
)
def test_ranges(text: str, expected: slice) -> None:
    assert parse_range(text) == expected


@pytest.mark.parametrize("text", ["", "3", "a:b", "3:1", "-1:-3", ":0", "1:2:3", "0x1:2", "٣:4", "1e1:", "--1:"])
def test_bad_ranges(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        parse_range(text)


def test_a_wrong_spec_imports_neither_torch_nor_phi(folder: Path) -> None:
    (folder / "s.toml").write_text(TEN_MISTAKES)
    program = (
        "import sys; import hyco_engine.spec.loading as l, hyco_engine.spec.dumping, hyco_engine.spec.schema\n"
        "from hyco_engine.hooks.registry import Registry\n"
        "from hyco_engine.errors import HycoError\n"
        "try: l.load_spec('s.toml', Registry())\n"
        "except HycoError: pass\n"
        "print([name for name in ('torch', 'phi', 'phiml', 'numpy') if name in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": root})
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
