"""The registry with distributions that exist: dist-info folders on sys.path, read by importlib.metadata."""

import importlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Queue
from types import ModuleType, SimpleNamespace

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import error_naming

from hyco_engine.cli.plugins import plugins as plugins_command
from hyco_engine.errors import DataError, PluginError, SpecError
from hyco_engine.hooks import HOOKS, ModelRecord, Record, Registry, disabled_names, hookimpl, hookspecs
from hyco_engine.hooks import loading as loading_module
from hyco_engine.hooks.checking import core_keys
from hyco_engine.spec import choices
from hyco_engine.spec.options import option, options

ENGINE_VERSION = "0.4.0"
HOOK_LIST = "hooks: hyco_caches, hyco_models, hyco_normalizers, hyco_sources, hyco_strategies, hyco_trackers"

KIT = """
from hyco_engine.hooks import ModelRecord, Record, hookimpl
from hyco_engine.spec.options import option, options

@options
class Options:
    size: int = option(3, help="how large", unit="m", ge=1, le=9)
    path: str = option(help="where")

def factory(options, context):
    return (options, context)

def record(kind, **more):
    return Record(**dict(kind=kind, summary=f"the {kind} kind", options=Options, factory=factory) | more)

def model(kind, role="synthetic", **more):
    return ModelRecord(
        **dict(kind=kind, summary=f"the {kind} model", options=Options, factory=factory, role=role) | more
    )
"""


class Site:
    """A folder on sys.path into which distributions are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "kit.py").write_text(KIT)

    def install(
        self,
        distribution: str,
        version: str = "1.0",
        *,
        code: str | None = None,
        target: str | None = None,
        name: str | None = None,
        requires: str = "",
    ) -> str:
        """Install one with one entry point; `code` becomes its module. Returns the module's name."""
        module = distribution.replace("-", "_")
        if code is not None:
            (self.folder / f"{module}.py").write_text("from kit import *\n" + code)
        lines = [f"[hyco_engine]\n{name or distribution} = {target or module}\n"] if code is not None else []
        self.metadata(distribution, version, "".join(lines), requires)
        return module

    def metadata(self, distribution: str, version: str, entry_points: str, requires: str = "") -> None:
        folder = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        requires = f"Requires-Dist: {requires}\n" if requires else ""
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{requires}")
        (folder / "entry_points.txt").write_text(entry_points)
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Site(tmp_path)
    # hides the real engine's metadata and with it the built-in plugins
    made.metadata("hyco-engine", ENGINE_VERSION, "")
    monkeypatch.delenv("HYCO_ENGINE_DISABLE_PLUGINS", raising=False)
    yield made
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


UNKNOWN = "not checked: its options need values for 'path', which only its author knows; its own tests must check it"
CACHE = "@hookimpl\ndef hyco_caches():\n    return [record('shelf')]\n"


def only(registry: Registry) -> loading_module.PluginInfo:
    (info,) = registry.plugins
    return info


# what is good


def test_hooks_are_those_of_the_hookspecs() -> None:
    specified = {name for name, member in vars(hookspecs).items() if hasattr(member, "hyco_engine_spec")}
    assert set(HOOKS) == specified


def test_a_good_plugin(site: Site) -> None:
    code = """
@hookimpl
def hyco_models():
    yield model('unet')
    yield model('burgers', role='physical')

@hookimpl(specname="hyco_caches")
def caches():
    return (record(kind) for kind in ('shelf', 'memory'))
"""
    site.install("good-plugin", "1.2", code=code, requires="hyco-engine>=0.1,<1")
    registry = Registry.discover()
    info = only(registry)
    assert (info.name, info.distribution, info.version, info.status, info.reason, info.warnings) == (
        ("good-plugin", "good-plugin", "1.2", "ok", "", ())
    )
    assert info.kinds == {"hyco_caches": ("memory", "shelf"), "hyco_models": ("burgers", "unet")}
    assert registry.kinds("hyco_models") == ("burgers", "unet")
    assert registry.kinds("hyco_models", role="physical") == ("burgers",)
    assert registry.kinds("hyco_trackers") == ()
    assert registry.get("hyco_caches", "shelf").summary == "the shelf kind"
    assert registry.origin("hyco_models", "unet") == info
    assert registry.build("hyco_caches", "memory", "options", "context") == ("options", "context")


def test_an_object_as_target(site: Site) -> None:
    code = """
class Plugin:
    @property
    def trap(self):
        raise RuntimeError("a property was run")
    def __getattr__(self, name):
        raise RuntimeError("__getattr__ was run")
    @hookimpl
    def hyco_caches(self):
        return [record('shelf')]
    @staticmethod
    @hookimpl
    def hyco_trackers():
        return [record('chart')]

plugin = Plugin()
"""
    site.install("objects", code=code, target="objects:plugin")
    registry = Registry.discover()
    assert only(registry).kinds == {"hyco_caches": ("shelf",), "hyco_trackers": ("chart",)}
    assert registry.build("hyco_caches", "shelf", 1, 2) == (1, 2)


def test_a_hook_of_a_later_engine_may_be_optional(site: Site) -> None:
    code = CACHE + "@hookimpl(optionalhook=True)\ndef hyco_schedules():\n    return []\n"
    site.install("early", code=code)
    assert only(Registry.discover()).kinds == {"hyco_caches": ("shelf",)}


# the failure table: one plugin fails, the other one serves

RECORDS = "@hookimpl\ndef hyco_caches():\n    return [{}]\n"
MODELS = "@hookimpl\ndef hyco_models():\n    return [{}]\n"

FAILURES = {
    "broken import": (
        "import no_such_module\n",
        "importing 'bad' failed: ModuleNotFoundError: No module named 'no_such_module' ({file}:2)",
    ),
    "import that raises": (
        "raise RuntimeError('two\\nlines')\n",
        "importing 'bad' failed: RuntimeError: two lines ({file}:2)",
    ),
    "syntax error": (
        "def f(:\n",
        "importing 'bad' failed: File \"{file}\", line 2 def f(: ^ SyntaxError: invalid syntax",
    ),
    "sys.exit in import": (
        "import sys\nsys.exit(7)\n",
        "importing 'bad' failed: SystemExit: 7 ({file}:3)",
    ),
    "no hook": ("x = 1\n", "it has no function marked with @hookimpl (" + HOOK_LIST + ")"),
    "misspelt hook": (
        "@hookimpl\ndef hyco_modles():\n    return []\n",
        "its hook 'hyco_modles' does not exist; did you mean 'hyco_models'? (" + HOOK_LIST + ")",
    ),
    "unknown hook": (
        "@hookimpl\ndef optimise():\n    return []\n",
        "its hook 'optimise' does not exist (" + HOOK_LIST + ")",
    ),
    "forgotten mark": (
        CACHE + "def hyco_models():\n    return []\n",
        "its function 'hyco_models' is named like a hook but lacks @hookimpl",
    ),
    "forgotten mark and misspelt": (
        CACHE + "def hyco_trakers():\n    return []\n",
        "its function 'hyco_trakers' is named like a hook but lacks @hookimpl; did you mean 'hyco_trackers'?",
    ),
    "default in the hook": (
        "@hookimpl\ndef hyco_caches(size=3):\n    return []\n",
        "its hook function hyco_caches(size=3) must take no argument, not even with a default",
    ),
    "argument in the hook": (
        "@hookimpl\ndef hyco_caches(registry, *rest):\n    return []\n",
        "its hook function hyco_caches(registry, *rest) must take no argument, not even with a default",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef hyco_caches():\n    return (yield)\n",
        "its hook function 'hyco_caches' is a wrapper; a hook function must only return records",
    ),
    "hook that raises": (
        "@hookimpl\ndef hyco_caches():\n    return [1 / 0]\n",
        "its hook function 'hyco_caches' failed: ZeroDivisionError: division by zero ({file}:4)",
    ),
    "hook that exits": (
        "@hookimpl\ndef hyco_caches():\n    raise SystemExit('bye')\n",
        "its hook function 'hyco_caches' failed: SystemExit: bye ({file}:4)",
    ),
    "generator that raises halfway": (
        "@hookimpl\ndef hyco_caches():\n    yield record('half')\n    raise KeyError('other half')\n",
        "its hook function 'hyco_caches' failed: KeyError: 'other half' ({file}:5)",
    ),
    "exception without a message": (
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd\n",
        "importing 'bad' failed: bad.Odd: <exception str() failed> ({file}:5)",
    ),
    "nothing returned": (
        "@hookimpl\ndef hyco_caches():\n    [record('shelf')]\n",
        "its hook function 'hyco_caches' returned None; it must return an iterable of records",
    ),
    "one record instead of a list": (
        "@hookimpl\ndef hyco_caches():\n    return record('shelf')\n",
        "its hook function 'hyco_caches' returned an object of type 'Record'; it must return an iterable of records",
    ),
    "text returned": (
        "@hookimpl\ndef hyco_caches():\n    return 'shelf'\n",
        "its hook function 'hyco_caches' returned an object of type 'str'; it must return an iterable of records",
    ),
    "record of a wrong type": (
        RECORDS.format("{'kind': 'shelf'}"),
        "hyco_caches returned an object of type 'dict'; it must return Record instances",
    ),
    "plain record as a model": (
        MODELS.format("record('unet')"),
        "hyco_models returned an object of type 'Record'; it must return ModelRecord instances",
    ),
    "model as a cache": (
        RECORDS.format("model('unet')"),
        "hyco_caches returned an object of type 'ModelRecord'; it must return Record instances",
    ),
    "class as a record": (
        RECORDS.format("Record"),
        "hyco_caches returned the class 'Record'; it must return Record instances",
    ),
    "role": (
        MODELS.format("model('unet', role='neural')"),
        "kind 'unet' of hyco_models: the role is 'neural'; it must be 'physical' or 'synthetic'",
    ),
    "kind": (
        RECORDS.format("record('My_Shelf')"),
        "kind 'My_Shelf' of hyco_caches: the kind must be kebab-case, such as 'my-kind'",
    ),
    "kind that is no text": (
        RECORDS.format("record(3)"),
        "kind 3 of hyco_caches: the kind must be kebab-case, such as 'my-kind'",
    ),
    "kind of the core": (
        RECORDS.format("record('auto')"),
        "kind 'auto' of hyco_caches: this kind belongs to the core; choose another one",
    ),
    "same kind twice": (
        RECORDS.format("record('shelf'), record('shelf')"),
        "hyco_caches returned the kind 'shelf' twice",
    ),
    "summary": (
        RECORDS.format("record('shelf', summary=' ')"),
        "kind 'shelf' of hyco_caches: the summary is empty; write one sentence",
    ),
    "options that are no attrs class": (
        RECORDS.format("record('shelf', options=dict)"),
        "kind 'shelf' of hyco_caches: the options are the class 'dict'; "
        "they must be a class made with hyco_engine.options",
    ),
    "options that are missing": (
        RECORDS.format("record('shelf', options=None)"),
        "kind 'shelf' of hyco_caches: the options are None; they must be a class made with hyco_engine.options",
    ),
    "options that are not frozen": (
        "import attrs\n@attrs.define\nclass Loose:\n    x: int = 3\n" + RECORDS.format("record('a', options=Loose)"),
        "kind 'a' of hyco_caches: the options class 'Loose' is not frozen; make it with hyco_engine.options",
    ),
    "option of the core": (
        "@options\nclass Taken:\n    directory: str = option(help='x')\n    kind: str = option(help='x')\n"
        + RECORDS.format("record('a', options=Taken)"),
        "kind 'a' of hyco_caches: the option 'directory' has the name of a key that belongs to the core; "
        "rename it; kind 'a' of hyco_caches: "
        "the option 'kind' has the name of a key that belongs to the core; rename it",
    ),
    "option of a physical model": (
        "@options\nclass Taken:\n    dt: float = option(0.1, help='x')\n"
        + MODELS.format("model('a', role='physical', options=Taken)"),
        "kind 'a' of hyco_models: the option 'dt' has the name of a key that belongs to the core; rename it",
    ),
    "factory": (
        RECORDS.format("record('shelf', factory='shelf:make')"),
        "kind 'shelf' of hyco_caches: the factory is an object of type 'str'; "
        "it must be a function factory(options, context)",
    ),
    "factory with other arguments": (
        RECORDS.format("record('shelf', factory=lambda options: None)"),
        "kind 'shelf' of hyco_caches: the factory takes (options); it must take (options, context)",
    ),
    "all that is wrong with the records": (
        RECORDS.format("record('A', summary=''), 3"),
        "kind 'A' of hyco_caches: the kind must be kebab-case, such as 'my-kind'; "
        "kind 'A' of hyco_caches: the summary is empty; write one sentence; "
        "hyco_caches returned an object of type 'int'; it must return Record instances",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_one_plugin_fails_and_the_other_serves(site: Site, case: str) -> None:
    code, reason = FAILURES[case]
    module = site.install("bad", "0.3", code=code)
    site.install("worthy", code="@hookimpl\ndef hyco_caches():\n    return [record('memory')]\n")
    registry = Registry.discover()
    bad, worthy = registry.plugins
    assert (bad.status, bad.kinds) == ("failed", {})
    reason = reason.replace("{file}", str(site.folder / f"{module}.py"))
    assert bad.reason == reason
    assert worthy.status == "ok"
    assert registry.kinds("hyco_caches") == ("memory",)
    with pytest.raises(SpecError) as caught:
        registry.get("hyco_caches", "shelve")
    assert str(caught.value) == (
        f"unknown cache backend 'shelve'; installed: memory; plugin 'bad' (bad 0.3) failed to load: {reason}"
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("bad:Plugin", "its target is the class 'Plugin'; name a module or an instance"),
        (
            "bad:absent",
            "importing 'bad:absent' failed: AttributeError: module 'bad' has no attribute 'absent'",
        ),
        ("absent", "importing 'absent' failed: ModuleNotFoundError: No module named 'absent'"),
        ("bad plugin", "its entry point 'bad plugin' is neither 'module' nor 'module:object'"),
    ],
)
def test_targets(site: Site, target: str, reason: str) -> None:
    code = "class Plugin:\n    @hookimpl\n    def hyco_caches(self):\n        return []\n"
    site.install("bad", code=code, target=target)
    info = only(Registry.discover())
    assert (info.status, info.reason) == ("failed", reason)


def test_an_interrupt_is_no_failure_of_a_plugin(site: Site) -> None:
    site.install("slow", code="raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        Registry.discover()


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ("hyco-engine>=0.4,<0.5", ""),
        ("HyCo_Engine>=0.4", ""),
        ("hyco-engine-fno>=7", ""),
        ('hyco-engine>=7; extra == "later"', ""),
        (
            "Hyco.Engine[all]>=0.5,<1",
            "it requires hyco-engine <1,>=0.5, but 0.4.0 is installed; "
            "install a version of one of them that fits the other",
        ),
        (
            "hyco-engine (at least 7)",
            "its requirement on hyco-engine cannot be read: packaging.requirements.InvalidRequirement: ",
        ),
    ],
)
def test_version_gate(site: Site, requires: str, reason: str) -> None:
    module = site.install("gated", code=CACHE, requires=requires)
    info = only(Registry.discover())
    assert info.status == ("failed" if reason else "ok")
    assert info.reason.startswith(reason)
    assert (module in sys.modules) == (not reason)


def test_two_entry_points_of_one_name(site: Site) -> None:
    site.install("first", "1.0", code=CACHE, name="shelf")
    site.install("second", "2.0", code=CACHE, name="shelf")
    site.install("third", code="@hookimpl\ndef hyco_caches():\n    return [record('memory')]\n")
    registry = Registry.discover()
    first, second, third = registry.plugins
    reason = (
        "the entry-point name 'shelf' is used by first 1.0 and second 2.0, so none of them is loaded; "
        "disable or uninstall all but one of them"
    )
    assert (first.status, first.distribution, first.reason) == ("failed", "first", reason)
    assert (second.status, second.distribution, second.reason) == ("failed", "second", reason)
    assert third.status == "ok"
    assert not {"first", "second"} & set(sys.modules)
    assert Registry.discover(disabled=["second"]).origin("hyco_caches", "shelf").distribution == "first"


def test_the_names_of_the_engines_entry_points_are_its_own(site: Site) -> None:
    (site.folder / "ours.py").write_text("from kit import *\n" + CACHE)
    engine = site.folder / f"hyco_engine-{ENGINE_VERSION}.dist-info"
    (engine / "entry_points.txt").write_text("[hyco_engine]\nbuiltin-caches = ours\n")
    importlib.invalidate_caches()
    site.install("rival", code=CACHE, name="builtin-caches")
    ours, theirs = Registry.discover().plugins
    assert (ours.distribution, ours.status) == ("hyco-engine", "ok")
    assert (theirs.distribution, theirs.status) == ("rival", "failed")
    assert theirs.reason == (
        "plugin 'builtin-caches' (hyco-engine 0.4.0) has this entry-point name, which no other distribution may use; "
        "rename the entry point"
    )
    assert "rival" not in sys.modules


def test_two_plugins_with_one_kind(site: Site) -> None:
    code = "@hookimpl\ndef hyco_caches():\n    return [record('shelf'), record({!r})]\n"
    site.install("first", "1.0", code=code.format("memory"))
    site.install("second", "2.0", code=code.format("disk"))
    registry = Registry.discover()
    message = (
        "kind 'shelf' of hyco_caches is offered by plugin 'first' (first 1.0) and "
        "plugin 'second' (second 2.0), so none of them is used; "
        "disable all but one with --disable-plugin or HYCO_ENGINE_DISABLE_PLUGINS"
    )
    assert [(info.status, info.reason) for info in registry.plugins] == [("failed", message)] * 2
    for method in (registry.get, registry.origin):
        with pytest.raises(PluginError) as caught:
            method("hyco_caches", "shelf")
        assert str(caught.value) == message
    # the kinds that are not in conflict serve
    assert registry.kinds("hyco_caches") == ("disk", "memory")
    assert registry.get("hyco_caches", "disk").kind == "disk"
    with pytest.raises(SpecError) as unknown:
        registry.get("hyco_caches", "dsik")
    assert str(unknown.value) == "unknown cache backend 'dsik'; did you mean 'disk'?; installed: disk, memory"


def test_one_kind_in_two_hooks_is_no_conflict(site: Site) -> None:
    site.install("first", code="@hookimpl\ndef hyco_caches():\n    return [record('shelf')]\n")
    site.install("second", code="@hookimpl\ndef hyco_trackers():\n    return [record('shelf')]\n")
    assert {info.status for info in Registry.discover().plugins} == {"ok"}


@pytest.mark.parametrize("disabled", ["shelf-plugin", "Shelf_Plugin", "some.dist", "Some-Dist"])
def test_disabled_plugins_are_not_imported(site: Site, disabled: str) -> None:
    site.install("some-dist", "3.0", code="raise RuntimeError('imported')\n", name="shelf-plugin")
    registry = Registry.discover(disabled=[disabled, "absent"])
    info = only(registry)
    assert (info.status, info.reason) == ("disabled", "disabled by name")
    assert "some_dist" not in sys.modules
    assert registry.unmatched == ("absent",)
    with pytest.raises(SpecError) as caught:
        registry.get("hyco_caches", "shelf")
    assert str(caught.value) == (
        "unknown cache backend 'shelf'; installed: none; plugin 'shelf-plugin' (some-dist 3.0) is disabled"
    )


def test_disabled_names_come_from_options_and_environment() -> None:
    environ = {"HYCO_ENGINE_DISABLE_PLUGINS": "a, b,,"}
    assert disabled_names(["c", " "], environ) == {"a", "b", "c"}
    assert disabled_names(environ={}) == set()


def test_a_malformed_distribution_does_not_hide_the_others(site: Site) -> None:
    site.metadata("torn", "1.0", "[hyco_engine]\nno equals sign\n")
    site.metadata("unrelated", "1.0", "[console_scripts]\nno equals sign\n")
    site.install("worthy", code=CACHE)
    assert [info.status for info in Registry.discover(disabled=["torn"]).plugins] == ["disabled", "ok"]
    torn, worthy = Registry.discover().plugins
    assert torn.status == "failed"
    assert torn.reason.startswith("its entry_points.txt cannot be read: TypeError: ")
    assert worthy.status == "ok"


# warnings


def test_heavy_imports_are_a_warning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "phi", raising=False)
    (site.folder / "phi.py").write_text("")
    site.install("heavy", code="import phi\n" + CACHE)
    info = only(Registry.discover())
    assert info.status == "ok"
    assert info.warnings == ("loading it imports phi; import phi inside the factory, so that the engine starts fast",)


def test_slow_imports_are_a_warning(site: Site) -> None:
    site.install("slow", code="import time\ntime.sleep(0.6)\n" + CACHE)
    info = only(Registry.discover())
    assert info.status == "ok"
    (warning,) = info.warnings
    assert warning.startswith("loading it took ")
    assert warning.endswith(" s, more than 0.5 s; import slow modules inside the factory")


def test_an_import_that_does_not_end_is_told_while_it_lasts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_module, "LONG_IMPORT_S", 0.01)
    told = Queue[logging.LogRecord]()
    logger = logging.getLogger("hyco_engine.hooks.loading")
    handler = QueueHandler(told)
    logger.addHandler(handler)
    # the import waits for what is told
    monkeypatch.setattr(loading_module, "waits", lambda: told.get(timeout=60), raising=False)
    site.install("endless", "2.0", code="from hyco_engine.hooks import loading\nheard = loading.waits()\n" + CACHE)
    try:
        info = only(Registry.discover())
    finally:
        logger.removeHandler(handler)
    assert info.status == "ok"
    heard = sys.modules["endless"].heard
    assert heard.getMessage() == (
        "plugin 'endless' (endless 2.0) has been importing 'endless' for 0.01 s; if it does not end, leave it out: "
        "--disable-plugin endless"
    )
    assert heard.levelno == logging.WARNING
    assert told.empty()


def test_options_without_help_are_a_warning(site: Site) -> None:
    code = "import attrs\n@attrs.frozen(kw_only=True)\nclass Bare:\n    x: int = 3\n"
    site.install("bare", code=code + RECORDS.format("record('a', options=Bare)"))
    assert only(Registry.discover()).warnings == ("kind 'a' of hyco_caches: the option 'x' has no help text",)


# asking for what is not there


def test_models_of_the_other_role(site: Site) -> None:
    code = "@hookimpl\ndef hyco_models():\n    return [model('unet'), model('burgers', role='physical')]\n"
    site.install("models", code=code)
    registry = Registry.discover()
    assert registry.get("hyco_models", "unet", role="synthetic").kind == "unet"
    with pytest.raises(SpecError) as caught:
        registry.get("hyco_models", "unet", role="physical")
    assert str(caught.value) == "'unet' is a synthetic model, but a physical one is needed; installed: burgers"
    with pytest.raises(SpecError) as caught:
        registry.get("hyco_models", "burger", role="physical")
    assert str(caught.value) == ("unknown physical model 'burger'; did you mean 'burgers'?; installed: burgers")


def test_an_unknown_hook_is_the_callers_mistake() -> None:
    with error_naming(ValueError, "'hyco_cache'", "did you mean 'hyco_caches'"):
        Registry().kinds("hyco_cache")


# building


def fails_with(error: BaseException) -> Callable[[object, object], object]:
    def factory(options: object, context: object) -> object:
        raise error

    return factory


@options
class NoOptions:
    """Nothing to choose."""


def a_record(kind: str, factory: Callable[[object, object], object] = lambda options, context: None) -> Record:
    return Record(kind=kind, summary="a kind", options=NoOptions, factory=factory)


@pytest.mark.parametrize(
    ("error", "text"),
    [(ZeroDivisionError("no"), "ZeroDivisionError: no"), (SystemExit(2), "SystemExit: 2")],
)
def test_what_a_factory_raises(error: BaseException, text: str) -> None:
    registry = Registry()
    registry.register(a_record("shelf", fails_with(error)), hook="hyco_caches", distribution="my-sim", version="1.0")
    with pytest.raises(PluginError) as caught:
        registry.build("hyco_caches", "shelf", NoOptions(), None)
    assert str(caught.value) == (
        f"the factory of cache backend 'shelf', from plugin 'my-sim' (my-sim 1.0), failed: {text}"
    )
    assert caught.value.__cause__ is error


def test_errors_of_the_engine_pass_through_build() -> None:
    registry = Registry()
    error = DataError("no such file")
    registry.register(a_record("shelf", fails_with(error)), hook="hyco_caches", distribution="my-sim", version="1.0")
    with pytest.raises(DataError) as caught:
        registry.build("hyco_caches", "shelf", NoOptions(), None)
    assert caught.value is error


# embedding


def a_module(*records: Record) -> ModuleType:
    module = ModuleType("my_simulator.plugin")

    @hookimpl
    def hyco_caches() -> tuple[Record, ...]:
        return records

    module.hyco_caches = hyco_caches  # type: ignore[attr-defined]
    return module


def test_register_modules_objects_and_records() -> None:
    registry = Registry()
    info = registry.register(a_module(a_record("shelf")), distribution="my-sim", version="1.0", name="shelves")
    assert str(info) == "plugin 'shelves' (my-sim 1.0)"
    model = ModelRecord(kind="unet", summary="a net", options=NoOptions, factory=lambda o, c: None, role="synthetic")
    registry.register(model, distribution="my-sim", version="1.0")
    registry.register(a_record("chart"), hook="hyco_trackers", distribution="my-sim", version="1.0")
    assert {hook: registry.kinds(hook) for hook in HOOKS if registry.kinds(hook)} == {
        "hyco_caches": ("shelf",),
        "hyco_models": ("unet",),
        "hyco_trackers": ("chart",),
    }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (SimpleNamespace, "its target is the class 'SimpleNamespace'; name a module or an instance"),
        (SimpleNamespace(), f"it has no function marked with @hookimpl ({HOOK_LIST})"),
        (a_module(a_record("B")), "kind 'B' of hyco_caches: the kind must be kebab-case, such as 'my-kind'"),
        (
            a_module(a_record("memory")),
            "kind 'memory' of hyco_caches is already offered by plugin 'core' (core 0.1); "
            "rename the kind or do not use the other plugin",
        ),
        (
            a_record("shelf"),
            f"register(record, hook=...) does not say which hook the record is for ({HOOK_LIST})",
        ),
    ],
)
def test_register_raises_at_once_and_adds_nothing(target: object, message: str) -> None:
    registry = Registry()
    registry.register(a_record("memory"), hook="hyco_caches", distribution="core", version="0.1")
    before = registry.plugins
    with pytest.raises(PluginError) as caught:
        registry.register(target, distribution="my-sim", version="1.0")
    assert str(caught.value) == f"plugin 'my-sim' (my-sim 1.0): {message}"
    assert registry.plugins == before


def test_register_beside_what_is_installed(site: Site) -> None:
    site.install("worthy", code=CACHE)
    registry = Registry.discover()
    registry.register(a_record("memory"), hook="hyco_caches", distribution="my-sim", version="1.0")
    assert registry.kinds("hyco_caches") == ("memory", "shelf")
    assert Registry.discover().kinds("hyco_caches") == ("shelf",)


def test_two_registries_share_nothing() -> None:
    one, other = Registry(), Registry()
    one.register(a_record("shelf"), hook="hyco_caches", distribution="a", version="1.0")
    other.register(a_record("shelf"), hook="hyco_caches", distribution="b", version="2.0")
    assert one.origin("hyco_caches", "shelf").distribution == "a"
    assert other.origin("hyco_caches", "shelf").distribution == "b"


# order


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_of_entry_points_does_not_matter(site: Site, data: st.DataObject) -> None:
    if not (site.folder / "alone.py").exists():
        code = "@hookimpl\ndef hyco_caches():\n    return [record(kind) for kind in {!r}]\n"
        site.install("first", code=code.format(["zinc", "shelf"]))
        site.install("second", code=code.format(["shelf", "disk"]))
        site.install("alone", code=code.format(["memory"]))
        site.install("broken", code="raise RuntimeError\n")
        site.install("twin", code=CACHE, name="name")
        site.install("other-twin", code=CACHE, name="name")
    installed = sorted(entry_points(group="hyco_engine"), key=lambda entry_point: entry_point.value)
    order: list[EntryPoint] = data.draw(st.permutations(installed))
    registry = Registry.discover(entry_points=order)
    assert registry.plugins == Registry.discover().plugins
    assert registry.kinds("hyco_caches") == ("disk", "memory", "zinc")


@given(order=st.permutations(["a", "b", "c"]))
def test_order_of_registration_does_not_matter(order: list[str]) -> None:
    registry = Registry()
    for kind in order:
        registry.register(a_record(kind), hook="hyco_caches", distribution=f"dist-{kind}", version="1.0")
    assert registry.kinds("hyco_caches") == ("a", "b", "c")
    assert [info.name for info in registry.plugins] == ["dist-a", "dist-b", "dist-c"]


# the commands


def test_an_entry_point_without_a_distribution(site: Site) -> None:
    (site.folder / "loose.py").write_text("from kit import *\n" + CACHE)
    loose = EntryPoint(name="loose", value="loose", group="hyco_engine")
    assert str(only(Registry.discover(entry_points=[loose]))) == "plugin 'loose' (unknown unknown)"


@pytest.fixture
def installed(site: Site) -> Site:
    models = "@hookimpl\ndef hyco_models():\n    return [model('unet', role='synthetic')]\n"
    site.install("worthy-dist", "1.2", code="print('noise')\n" + CACHE + models, name="worthy")
    site.install("bad", "0.3", code="raise RuntimeError('boom')\n")
    site.install("unwanted", code="")
    return site


def test_plugins_list(installed: Site) -> None:
    result = CliRunner().invoke(plugins_command, ["list", "--disable-plugin", "unwanted"])
    assert result.exit_code == 0
    file = installed.folder / "bad.py"
    assert result.stdout == (
        "KIND   HOOK                     DISTRIBUTION     SUMMARY\n"
        "unet   hyco_models (synthetic)  worthy-dist 1.2  the unet model\n"
        "shelf  hyco_caches              worthy-dist 1.2  the shelf kind\n"
        f"failed: plugin 'bad' (bad 0.3): importing 'bad' failed: RuntimeError: boom ({file}:2)\n"
        "disabled: plugin 'unwanted' (unwanted 1.0): disabled by name\n"
    )
    assert result.stderr == "noise\n"


def test_plugins_list_as_json(installed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYCO_ENGINE_DISABLE_PLUGINS", "unwanted,absent")
    result = CliRunner().invoke(plugins_command, ["list", "--json"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert [(info["name"], info["status"]) for info in data["plugins"]] == [
        ("bad", "failed"),
        ("unwanted", "disabled"),
        ("worthy", "ok"),
    ]
    assert data["plugins"][2] == {
        "name": "worthy",
        "distribution": "worthy-dist",
        "version": "1.2",
        "status": "ok",
        "reason": "",
        "warnings": [],
        "kinds": {"hyco_caches": ["shelf"], "hyco_models": ["unet"]},
    }
    assert set(data["kinds"]) == set(HOOKS)
    assert data["kinds"]["hyco_models"] == [
        {
            "kind": "unet",
            "summary": "the unet model",
            "role": "synthetic",
            "distribution": "worthy-dist",
            "version": "1.2",
        }
    ]
    assert result.stderr == "noise\nnote: 'absent' is not disabled, since no plugin or distribution has that name\n"


@pytest.mark.parametrize("name", ["worthy", "Worthy_Dist"])
def test_plugins_check_of_one(installed: Site, name: str) -> None:
    result = CliRunner().invoke(plugins_command, ["check", name])
    assert result.exit_code == 0
    assert result.stdout == (
        "plugin 'worthy' (worthy-dist 1.2): ok\n"
        "\n"
        "  shelf - hyco_caches: the shelf kind\n"
        "    OPTION  TYPE  DEFAULT   UNIT  BOUNDS      HELP\n"
        "    size    int   3         m     >= 1, <= 9  how large\n"
        "    path    str   required                    where\n"
        f"    {UNKNOWN}\n"
        "\n"
        "  unet - hyco_models (synthetic): the unet model\n"
        "    OPTION  TYPE  DEFAULT   UNIT  BOUNDS      HELP\n"
        "    size    int   3         m     >= 1, <= 9  how large\n"
        "    path    str   required                    where\n"
        f"    {UNKNOWN}\n"
        "\n"
    )


def test_plugins_check_of_all_ends_with_3_if_one_failed(installed: Site) -> None:
    result = CliRunner().invoke(plugins_command, ["check", "--json"])
    assert result.exit_code == 3
    data = json.loads(result.stdout)
    assert [info["status"] for info in data["plugins"]] == ["failed", "failed", "ok"]
    assert data["plugins"][2]["records"]["hyco_caches"][0] == {
        "kind": "shelf",
        "summary": "the shelf kind",
        "options": [
            {
                "name": "size",
                "type": "int",
                "required": False,
                "default": 3,
                "help": "how large",
                "unit": "m",
                "bounds": {"ge": 1, "le": 9},
            },
            {
                "name": "path",
                "type": "str",
                "required": True,
                "default": None,
                "help": "where",
                "unit": "",
                "bounds": {},
            },
        ],
    }


def test_plugins_check_of_what_is_not_there(installed: Site) -> None:
    result = CliRunner().invoke(plugins_command, ["check", "wordy"])
    assert isinstance(result.exception, SpecError)
    assert str(result.exception) == (
        "no plugin or distribution 'wordy' is installed; did you mean 'worthy'?; "
        "installed: bad, unwanted, worthy, worthy-dist"
    )


def test_plugins_check_shows_computed_defaults(site: Site) -> None:
    code = (
        "import attrs\nfrom typing import Literal\n@options\nclass Made:\n"
        "    sizes: tuple[int, ...] = option(attrs.Factory(lambda: (1, 2)), help='sizes')\n"
        "    bad: int = option(attrs.Factory(lambda: 1 / 0), help='bad')\n"
        "    top: float | None = option(float('inf'), help='top')\n"
        "    mode: Literal['a', 'b'] = option('a', help='mode')\n"
    )
    site.install("made", code=code + RECORDS.format("record('a', options=Made)"))
    result = CliRunner().invoke(plugins_command, ["check", "made", "--json"])
    shown = json.loads(result.stdout)["plugins"][0]["records"]["hyco_caches"][0]["options"]
    assert [(option["type"], option["default"]) for option in shown] == [
        ("tuple[int, ...]", [1, 2]),
        ("int", "computed"),
        ("float | None", "inf"),
        ("'a' | 'b'", "a"),
    ]


def test_infos_are_frozen() -> None:
    info = loading_module.PluginInfo(name="a", distribution="b", version="1")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        info.name = "c"  # type: ignore[misc]


def test_option_is_the_engines() -> None:
    """These tests write options as plugin authors do."""
    assert option(3, help="x").metadata["help"] == "x"


# what is deprecated

OLD = "hyco_caches is renamed hyco_stores, and goes with hyco-engine 0.6"


def test_a_deprecated_hook_works_and_names_who_uses_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {**hookspecs.hyco_caches.hyco_engine_spec, "warn_on_impl": DeprecationWarning(OLD)}  # type: ignore[attr-defined]
    monkeypatch.setattr(hookspecs.hyco_caches, "hyco_engine_spec", marks)
    site.install("old-fashioned", "1.2", code=CACHE)
    site.install("worthy", code="@hookimpl\ndef hyco_trackers():\n    return [record('chart')]\n")
    with pytest.warns(DeprecationWarning, match="is deprecated") as caught:
        registry = Registry.discover()
    message = f"its hook 'hyco_caches' is deprecated: {OLD}"
    assert [str(warning.message) for warning in caught] == [f"plugin 'old-fashioned' (old-fashioned 1.2): {message}"]
    old, worthy = registry.plugins
    assert (old.status, old.warnings, worthy.warnings) == ("ok", (message,), ())
    assert registry.build("hyco_caches", "shelf", 1, 2) == (1, 2)
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        listed = CliRunner().invoke(plugins_command, ["list"]).stdout
    assert f"warning: plugin 'old-fashioned' (old-fashioned 1.2): {message}\n" in listed


def test_a_deprecated_field_of_a_record_works_and_names_who_sets_it() -> None:
    @attrs.frozen(kw_only=True)
    class OldRecord(Record):
        label: str = attrs.field(default="", metadata={"deprecated": "use summary; it goes with hyco-engine 0.6"})

    def offer(kind: str, **more: str) -> Record:
        return OldRecord(kind=kind, summary="a kind", options=NoOptions, factory=lambda o, c: None, **more)

    registry = Registry()
    with pytest.warns(DeprecationWarning, match=r"^plugin 'my-sim' \(my-sim 1.0\): kind 'shelf' of hyco_caches: "):
        info = registry.register(
            a_module(offer("shelf", label="Shelf"), offer("rack")), distribution="my-sim", version="1.0"
        )
    assert info.warnings == (
        "kind 'shelf' of hyco_caches: the field 'label' of its record is deprecated: use summary; it goes with "
        "hyco-engine 0.6",
    )
    assert registry.kinds("hyco_caches") == ("rack", "shelf")


def test_nothing_is_deprecated_without_saying_when_it_goes() -> None:
    texts = [
        str(marks["warn_on_impl"])
        for hook in HOOKS
        if (marks := getattr(hookspecs, hook).hyco_engine_spec)["warn_on_impl"] is not None
    ]
    texts += [
        field.metadata["deprecated"]
        for cls in (Record, ModelRecord)
        for field in attrs.fields(cls)
        if "deprecated" in field.metadata
    ]
    assert all("goes with hyco-engine " in text for text in texts)


@pytest.mark.parametrize(
    "table",
    [
        choices.PhysicalChoice,
        choices.SyntheticChoice,
        choices.StrategyChoice,
        choices.NormalizerChoice,
        choices.CacheChoice,
        choices.SourceChoice,
        choices.TrackerChoice,
    ],
)
def test_keys_that_no_option_may_have_are_those_of_the_specs_tables(table: type[choices.Choice]) -> None:
    common = {"kind": "a", "summary": "a kind", "options": NoOptions, "factory": print}
    record = ModelRecord(role=table.role, **common) if table.role else Record(**common)
    assert core_keys(table.hook, record) == {field.name for field in attrs.fields(table)} - {"options"}
