"""Ctrl-C in each of the four phases of a real run: exit code 130, and nothing generated is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny_specs import heat_on_disk

PHASES = ["generate_physical", "train_synthetic", "generate_synthetic", "train_physical"]

SPEC = heat_on_disk(cycles=1, epochs=100_000)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c(phase: str, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    # the surrogate's phase comes first and must come to an end where a later one is interrupted
    short = ["--set", "training.synthetic.epochs_per_cycle=1"] if phase in PHASES[2:] else []
    script = f"""
        import os, signal, sys
        from hyco_engine.cli import main
        from hyco_engine.training.reporter import Reporter

        plain, told = Reporter.tell, []

        def tell(self, hook, record):
            plain(self, hook, record)
            if hook == "progress" and record["phase"] == {phase!r} and not told:
                told.append(hook)
                held = [f for _, _, files in os.walk("cache/generated") for f in files if f.startswith("shard_")]
                print("held", len(held), flush=True)
                os.kill(os.getpid(), signal.SIGINT)

        Reporter.tell = tell
        sys.argv = ["hyco-engine", "run", "spec.toml", "--quiet", *{short!r}]
        main()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert ended.returncode == 130, ended.stderr
    assert "held 1" in ended.stdout, "the signal came while samples were there"
    generated = tmp_path / "cache" / "generated"
    assert not [path for path in generated.rglob("*") if path.is_file()]
    assert "Traceback" not in ended.stderr
