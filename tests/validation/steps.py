"""What the scripts that try installed distributions share: a command that must end as expected, and messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def command(module: str, *arguments: str | Path, code: int = 0, cwd: Path | None = None) -> str:
    """Run the module as a program of this environment; return its output, with errors if it is to fail.

    End the script on another exit code than `code`.
    """
    line = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)
    expect(done.returncode == code, f"{' '.join(line)}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr if code else done.stdout


def expect(right: bool, message: str) -> None:
    if not right:
        sys.exit(message)


def say(message: str) -> None:
    print(message, flush=True)
