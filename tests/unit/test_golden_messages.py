"""The messages that users meet most, word for word: `golden_messages.md` beside this file, a page to be read.

Everywhere else tests ask a message for its kind, its place and its values (`messages.py`). Here the wording is the
product. After a change of words write the page anew, and read what changed in it:

    python tests/unit/test_golden_messages.py
"""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from hyco_engine.cli import cli

PAGE = Path(__file__).with_name("golden_messages.md")
SPEC = """\
[run]
name = "mine"
cycles = 2

[data]
kind = "simulate"
truth = { nu = 0.02 }
num_simulations = 3
num_frames = 6
resolution = { x = 16 }
dt = 0.02
split = { train = "0:1", val = "1:2", test = "2:3" }

[physical]
kind = "burgers"
parameters.nu = { init = 0.05, bounds = [1e-4, 1.0] }

[synthetic]
kind = "resnet"
"""
MEASURED = """\
[data]
kind = "arrays"
path = "measured.npz"
variables = { u = "u" }
axes = "tx"
dt = 0.1
bounds = { x = [0.0, 1.0] }
boundary = "periodic"
split = { by = "time", train = "0:6", val = "6:8", test = "8:10" }

[synthetic]
kind = "resnet"
"""
SPECS = {
    "spec.toml": SPEC,
    "measured.toml": MEASURED,
    "mistakes.toml": SPEC.replace("cycles = 2", "cycels = 2")
    .replace("num_frames = 6", 'num_frames = "6"')
    .replace('"burgers"', '"burgesr"')
    .replace("init = 0.05", "init = 5.0"),
    "syntax.toml": SPEC.replace('name = "mine"', "name = mine"),
}
CASES = [
    ("The spec is not where it was looked for", "run specs.toml"),
    ("The spec is no TOML", "run syntax.toml"),
    ("Several mistakes at once", "run mistakes.toml"),
    ("A key on the command line that there is not", "run spec.toml --set run.cycels=3"),
    ("A value on the command line of another type", "run spec.toml --set training.synthetic.lr=fast"),
    ("A parameter that the physics does not have", "check spec.toml --set physical.parameters.mu.init=0.1"),
    ("A step that does not divide the time between two frames", "check spec.toml --set physical.dt=0.03"),
    ("A split beyond the end of the data", "check spec.toml --set 'data.split.test=\"2:9\"'"),
    ("A split that holds no simulation", "check spec.toml --set 'data.split.val=\"1:1\"'"),
    ("A file of data that does not exist", "check measured.toml --set 'data.path=\"measure.npz\"'"),
    ("A name that is not in the file", "check measured.toml --set 'data.variables.u=\"v\"'"),
    ("Axes that do not fit the array", "check measured.toml --set 'data.axes=\"txy\"'"),
    ("Values that are not finite", "run measured.toml --set 'data.path=\"holes.npz\"'"),
    ("A folder for the run that holds something else", "run spec.toml --run-dir full"),
    ("A run to go on with that is none", "run spec.toml --run-dir full --resume"),
    ("A report of a folder that is no run", "report full"),
    ("A comparison of two models where there is one", "compare measured.toml"),
    ("A plugin to disable that there is not", "check spec.toml --disable-plugin tensorbord"),
    (
        "Training that diverges",
        "run measured.toml --quiet --set training.synthetic.batch_size=1 --set training.synthetic.lr=1e30",
    ),
]


def page() -> str:
    """All messages, from a folder with the files that the commands name."""
    parts = ["# The messages that users meet most\n"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, text in SPECS.items():
            Path(name).write_text(text)
        values = np.sin(np.linspace(0, 6, 160)).reshape(10, 16)
        np.savez("measured.npz", u=values)
        np.savez("holes.npz", u=np.where(values > 0.999, np.nan, values))
        Path("full").mkdir()
        (Path("full") / "notes.txt").touch()
        for title, command in CASES:
            result = CliRunner().invoke(cli, shlex.split(command))
            told = result.stderr.replace(str(Path.cwd()), "/home/me").rstrip()
            told = re.sub(r"(?<=failed after )[^;\n]+", "2 s", told)
            parts.append(f"## {title}\n```\n$ hyco-engine {command}\n{told}\n[exit code {result.exit_code}]\n```\n")
    return "\n".join(parts)


def test_the_messages_are_the_ones_on_the_page() -> None:
    assert page() == PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
