"""The reading of damaged files, in a new process that its reading may end.

    python -m hyco_engine.testing.damage CONTRACT TOLD SECONDS

`CacheContract` starts it. CONTRACT is JSON: a file, module and class, or the kind of an installed plugin. Into the file
TOLD it writes a line of JSON before each reading, and one for what was wrong. One reading may take SECONDS of processor
time, which a busy machine does not change, as it would change the time on the clock. The process is a new one, since a
forked one would have the locks of a library's threads without the threads.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from hyco_engine.testing.caches import CacheContract

PROCESSOR_S = 60
"""The processor time after which one reading counts as endless."""
SILENT_S = 300
"""The time after which a process that still reads writes to stderr where it is."""


class NotRemade(Exception):
    """Another process cannot make the contract; the message says why."""


def read_elsewhere(contract: Mapping[str, Any], processor_s: int = PROCESSOR_S) -> str:
    """Let a new process read the damaged files of a contract, and return what goes wrong, or "".

    Raises NotRemade if that process cannot make the contract.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.jsonl"
        told.touch()
        command = [sys.executable, "-m", __name__, json.dumps(contract), str(told), str(processor_s)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # a process that is meant to end must not write about it
        environment.pop("PYTHONFAULTHANDLER", None)
        code = subprocess.run(command, env=environment, check=False).returncode
        found: dict[str, str] = {}
        for line in told.read_text(encoding="utf-8").splitlines():
            found |= json.loads(line)
    if "reading" not in found and code:
        raise NotRemade(found.get("failed", f"it ended with the exit code {code}"))
    case = f"{found.get('reading')} while it was in use"
    if "wrong" in found:
        return f"{case}, and {found['wrong']}"
    if "failed" in found:
        return f"{case}, and closing fails: {found['failed']}"
    if -code == getattr(signal, "SIGXCPU", None):
        return f"{case}, and reading does not end within {processor_s} s of processor time"
    if code:
        return (
            f"{case}, and reading ends the whole process by signal {-code}; look at the file's size before you read it"
        )
    return ""


def main(contract: str, told: str, processor_s: str) -> None:
    """Read the damaged files of the contract that `read_elsewhere` describes."""
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(SILENT_S, repeat=True, file=sys.__stderr__)
    with Path(told).open("a", encoding="utf-8") as file:

        def tell(**line: str) -> None:
            print(json.dumps(line), file=file, flush=True)

        def reading(case: str) -> None:
            _allow_more(int(processor_s))
            tell(reading=case)

        try:
            wrong = _remade(json.loads(contract)).read_damaged(reading)
        except Exception as error:
            tell(failed=f"{type(error).__name__}: {error}")
            sys.exit(1)
        if wrong:
            tell(wrong=wrong)


def _remade(contract: Mapping[str, Any]) -> CacheContract:
    """Make the contract anew. Raises whatever the import of its module or plugin raises."""
    if "kind" in contract:
        from hyco_engine.hooks.registry import Registry
        from hyco_engine.testing.checks import contract_of

        registry = Registry.discover()
        record = registry.get("hyco_caches", contract["kind"])
        made: Callable[[], CacheContract] = contract_of("hyco_caches", record, registry)
        return made()
    try:
        module = import_module(contract["module"])
    except ImportError:
        # pytest may import test files without their folder in sys.path
        spec = spec_from_file_location(contract["module"], contract["file"])
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[contract["module"]] = module_from_spec(spec)
        spec.loader.exec_module(module)
    made = attrgetter(contract["class"])(module)
    return made()


def _allow_more(seconds: int) -> None:
    """Let the process take so much processor time from now on."""
    if resource is None:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    # a limit counts whole seconds: rounded down, less than a moment could be left
    wanted = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


if __name__ == "__main__":
    main(*sys.argv[1:])
