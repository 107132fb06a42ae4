from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyco_engine.errors import RunError, SpecError
from hyco_engine.runs import cache_manager
from hyco_engine.runs.cache_manager import CacheManager, is_plain_name, tree_bytes

Start = Callable[..., "subprocess.Popen[str]"]

# a run that holds generated samples until it is told to go on, or killed
RUN = """
import sys
from pathlib import Path
from hyco_engine.runs.cache_manager import CacheManager
root, run_id, end = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with CacheManager(root, run_id, "burgers") as caches:
    caches.sweep()
    with caches.generated("physical", 0) as folder:
        (folder / "shard").write_bytes(bytes(1000))
        print("ready", flush=True)
        sys.stdin.readline()
        if end == "fail":
            raise RuntimeError("failed")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def run(run_id: str, end: str = "finish", root: Path = tmp_path) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, str(root), run_id, end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()[1]
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


def files(root: Path) -> list[str]:
    """Return everything below a folder, empty folders included."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def leave(
    root: Path, run_id: str, *, cycle: str = "cycle_000", dset: str = "burgers", preds: str = "physical_preds"
) -> Path:
    """Make the files that a dead run leaves."""
    folder = root / "generated" / preds / cycle / dset / run_id
    folder.mkdir(parents=True)
    (folder / "shard").write_bytes(bytes(10))
    return folder


def test_the_tree_is_the_documents(tmp_path: Path) -> None:
    with CacheManager(tmp_path, "run-1", "burgers") as caches:
        assert caches.tensors == tmp_path / "tensors" / "burgers"
        assert caches.evaluation == tmp_path / "evaluation" / "burgers"
        with caches.generated("synthetic", 12) as folder:
            assert folder == tmp_path / "generated" / "synthetic_preds" / "cycle_012" / "burgers" / "run-1"
            assert files(folder) == []
        with caches.generated("physical", 0) as folder:
            assert folder == tmp_path / "generated" / "physical_preds" / "cycle_000" / "burgers" / "run-1"
    assert files(tmp_path) == []


def test_no_root_no_folder(tmp_path: Path) -> None:
    for caches in (CacheManager(None, "run-1", "d"), CacheManager(tmp_path, "run-1", "d", "")):
        assert not caches.has_folder
        with caches.generated("physical", 0) as folder:
            assert folder is None
        assert caches.sweep().removed == ()
        caches.close()
    assert CacheManager(None, "run-1", "d").tensors is None
    assert "no folder" in CacheManager(None, "run-1", "d").summary()


def test_a_folder_of_its_own_for_generated_samples(tmp_path: Path) -> None:
    fast = tmp_path / "fast"
    fast.mkdir()
    with CacheManager(tmp_path / "cache", "run-1", "d", fast) as caches, caches.generated("physical", 3) as folder:
        assert folder == fast / "physical_preds" / "cycle_003" / "d" / "run-1"
    assert files(tmp_path) == ["fast"]  # what the user named stays


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_whatever_happens(failure: type[BaseException] | None, tmp_path: Path) -> None:
    caches = CacheManager(tmp_path, "run-1", "d")

    def generate() -> None:
        with caches.generated("physical", 0) as folder:
            assert folder is not None
            (folder / "deep" / "er").mkdir(parents=True)
            (folder / "deep" / "er" / "shard").write_bytes(bytes(2000))
            if failure is not None:
                raise failure

    if failure is None:
        generate()
    else:
        with pytest.raises(failure):
            generate()
    assert files(tmp_path) == ["generated", "generated/owners", "generated/owners/run-1.lock"]
    assert caches.peak_bytes == 2000
    caches.close()
    caches.close()
    assert files(tmp_path) == []


def test_the_folder_may_be_gone_already(tmp_path: Path) -> None:
    with CacheManager(tmp_path, "run-1", "d") as caches, caches.generated("physical", 0) as folder:
        assert folder is not None
        folder.rmdir()
    assert files(tmp_path) == []


def test_a_second_interrupt_while_cleaning_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove, calls = cache_manager.shutil.rmtree, []

    def impatient(folder: Path, **options: bool) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(folder, **options)

    monkeypatch.setattr(cache_manager.shutil, "rmtree", impatient)

    def generate(caches: CacheManager) -> None:
        with caches.generated("physical", 0) as folder:
            assert folder is not None
            (folder / "shard").write_bytes(b"x")
            raise KeyboardInterrupt

    with CacheManager(tmp_path, "run-1", "d") as caches, pytest.raises(KeyboardInterrupt):
        generate(caches)
    assert files(tmp_path) == []


def test_the_folder_is_fresh_even_where_something_was_left(tmp_path: Path) -> None:
    left = leave(tmp_path, "run-1")
    with CacheManager(tmp_path, "run-1", "burgers") as caches, caches.generated("physical", 0) as folder:
        assert folder == left
        assert files(folder) == []


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "tensors" / "d").mkdir(parents=True)
    (tmp_path / "tensors" / "d" / "sim_000000.safetensors").write_bytes(bytes(3_000_000))
    (tmp_path / "tensors" / "other").mkdir()
    (tmp_path / "tensors" / "other" / "x").write_bytes(bytes(77))
    leave(tmp_path, "run-2")
    with CacheManager(tmp_path, "run-1", "d") as caches:
        with caches.generated("physical", 0) as folder:
            assert folder is not None
            (folder / "shard").write_bytes(bytes(1_500_000))
            usage = caches.usage()
            assert (usage.tensors, usage.generated, usage.evaluation) == (3_000_000, 1_500_000, 0)
        caches.note(9_000_000)
        caches.note(10)
        assert caches.usage().generated == 0
        assert caches.peak_bytes == 9_000_000
        assert caches.summary() == (
            f"cache {tmp_path}, data set d: tensors 3.0 MB, generated 0.0 MB, evaluation 0.0 MB "
            "(generated at most 9.0 MB)"
        )
    assert tree_bytes(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\n", "-x", ".hidden", "ü", "a" * 129, "a b", "a\0"])
def test_names_are_plain(name: str, tmp_path: Path) -> None:
    assert not is_plain_name(name)
    with pytest.raises(SpecError, match="cannot name a cache folder"):
        CacheManager(tmp_path, name, "d")
    with pytest.raises(SpecError, match="cannot name a cache folder"):
        CacheManager(tmp_path, "run-1", name)


# --- dead and live runs --------------------------------------------------------------------------------------


def test_a_sweep_removes_what_dead_runs_left(tmp_path: Path) -> None:
    dead = [
        leave(tmp_path, "dead-1"),
        leave(tmp_path, "dead-2", cycle="cycle_1234", dset="heat", preds="synthetic_preds"),
    ]
    mine = leave(tmp_path, "me", cycle="cycle_007")  # of an earlier life
    (tmp_path / "generated" / "owners").mkdir()
    (tmp_path / "generated" / "owners" / "dead-1.lock").touch()
    (tmp_path / "generated" / "owners" / "dead-3.lock").touch()
    with CacheManager(tmp_path, "me", "d") as caches:
        swept = caches.sweep()
        assert set(swept.removed) == {*dead, mine}
        assert swept.failed == ()
        assert caches.sweep().removed == ()
    assert files(tmp_path) == []


def test_a_sweep_leaves_alone_what_is_no_run_s(tmp_path: Path) -> None:
    kept = [
        leave(tmp_path, "run-1", preds="other_preds"),
        leave(tmp_path, "run-1", cycle="cycle_1"),
        leave(tmp_path, "run-1", cycle="notes"),
        leave(tmp_path, ".hidden"),
        leave(tmp_path, "run 1"),
        leave(tmp_path, "run-1\n"),
        leave(tmp_path, "run-1", dset="-d"),
    ]
    (tmp_path / "generated" / "physical_preds" / "cycle_000" / "burgers" / "a-file").write_text("mine")
    (tmp_path / "generated" / "owners").mkdir()
    (tmp_path / "generated" / "owners" / "notes.txt").touch()
    before = files(tmp_path)
    with CacheManager(tmp_path, "me", "d") as caches:
        assert caches.sweep().removed == ()
    assert files(tmp_path) == before
    assert all((folder / "shard").exists() for folder in kept)


@pytest.mark.parametrize("depth", range(5))
def test_a_sweep_follows_no_link_out_of_the_root(depth: int, tmp_path: Path) -> None:
    """Whichever part of the path is a link, what it leads to stays."""
    parts = ["generated", "physical_preds", "cycle_000", "burgers", "dead-1"]
    outside = tmp_path / "outside"
    target = outside.joinpath(*parts[depth + 1 :])
    target.mkdir(parents=True)
    (target / "precious").write_text("x")
    root = tmp_path / "cache"
    link = root.joinpath(*parts[: depth + 1])
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_manager, "CLAIM_S", 0.05)
        caches = CacheManager(root, "me", "burgers")
        if depth == 0:  # not even a lock is made there
            with pytest.raises(RunError, match="symbolic link"):
                caches.sweep()
        else:
            assert caches.sweep().removed == ()
        if depth < 4:
            with pytest.raises(RunError, match="symbolic link"), caches.generated("physical", 0):
                pass
        caches.close()
    assert files(outside) == sorted({*files(outside), str((target / "precious").relative_to(outside))})
    assert (target / "precious").exists()
    assert link.is_symlink()


def test_links_inside_a_dead_run_s_folder_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    root = tmp_path / "cache"
    folder = leave(root, "dead-1")
    (folder / "link").symlink_to(outside)
    owners = root / "generated" / "owners"
    owners.mkdir()
    (owners / "dead-2.lock").symlink_to(outside / "precious")
    with CacheManager(root, "me", "d") as caches:
        assert caches.sweep().removed == (folder,)
    assert files(outside) == ["precious"]
    assert (owners / "dead-2.lock").is_symlink()


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    leave(tmp_path / "real", "dead-1")
    with CacheManager(tmp_path / "cache", "me", "d") as caches:
        assert len(caches.sweep().removed) == 1
        with caches.generated("physical", 0) as folder:
            assert folder is not None
    assert files(tmp_path / "real") == []


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_a_live_run_is_never_touched_and_cleans_up_after_itself(end: str, start: Start, tmp_path: Path) -> None:
    child = start("live-1", end)
    with CacheManager(tmp_path, "me", "burgers") as caches:
        assert caches.sweep().removed == ()
        with caches.generated("physical", 0):
            pass
    assert "generated/physical_preds/cycle_000/burgers/live-1/shard" in files(tmp_path)
    child.communicate("go on\n")
    assert (child.returncode == 0) == (end == "finish")
    assert files(tmp_path) == []


def test_what_a_killed_run_left_is_swept_at_the_next_start(start: Start, tmp_path: Path) -> None:
    killed, live = start("killed-1"), start("live-1")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "generated/physical_preds/cycle_000/burgers/killed-1/shard" in files(tmp_path)
    with CacheManager(tmp_path, "me", "other") as caches:
        assert [path.name for path in caches.sweep().removed] == ["killed-1"]
    assert not any("killed-1" in name for name in files(tmp_path))
    live.communicate("go on\n")
    assert live.returncode == 0
    assert files(tmp_path) == []


def test_a_run_that_was_killed_can_start_again_under_its_own_id(start: Start, tmp_path: Path) -> None:
    killed = start("run-1")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = start("run-1")
    again.communicate("go on\n")
    assert again.returncode == 0
    assert files(tmp_path) == []


def test_an_id_in_use_is_refused(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start("run-1")
    monkeypatch.setattr(cache_manager, "CLAIM_S", 0.1)
    caches = CacheManager(tmp_path, "run-1", "burgers")
    with pytest.raises(RunError, match="another run with the id 'run-1' uses"):
        caches.sweep()
    with pytest.raises(RunError, match="another run with the id 'run-1'"), caches.generated("physical", 0):
        pass
    caches.close()
    assert "generated/physical_preds/cycle_000/burgers/run-1/shard" in files(tmp_path)


def test_many_runs_that_start_sweep_generate_and_end_at_once(tmp_path: Path) -> None:
    """Threads stand for processes here: locks are per open file, so threads exclude each other as processes do."""
    for k in range(5):
        leave(tmp_path, f"dead-{k}")

    def life(number: int) -> None:
        for turn in range(15):
            with CacheManager(tmp_path, f"run-{number}", "burgers") as caches:
                caches.sweep()
                with caches.generated("physical", turn % 2) as folder:
                    assert folder is not None
                    (folder / "shard").write_text(str(number))
                    time.sleep(0.001)
                    assert files(folder) == ["shard"]
                    assert (folder / "shard").read_text() == str(number)

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(life, number) for number in range(6)]:
            future.result()
    assert files(tmp_path) == []


def test_two_runs_of_one_id_never_overlap(tmp_path: Path) -> None:
    inside: list[int] = []

    def life(number: int) -> None:
        for _ in range(10):
            with CacheManager(tmp_path, "same", "burgers") as caches, caches.generated("physical", 0):
                inside.append(number)
                time.sleep(0.001)
                assert inside == [number]
                inside.clear()

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(life, number) for number in range(4)]:
            future.result()
    assert files(tmp_path) == []


# --- trouble -------------------------------------------------------------------------------------------------


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    caches = CacheManager(tmp_path / "file", "run-1", "d")
    words = r"cannot use the folder .*: Not a directory; choose a writable place"
    with pytest.raises(RunError, match=words), caches.generated("physical", 0):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become somebody who may not write")
def test_a_root_of_somebody_else() -> None:
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with (
            pytest.raises(RunError, match="Permission denied"),
            CacheManager(root, "run-1", "d").generated("physical", 0),
        ):
            pass
    finally:
        os.seteuid(0)
        os.setegid(0)
        root.rmdir()


def test_what_cannot_be_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied")

    leave(tmp_path, "dead-1")
    caches = CacheManager(tmp_path, "run-1", "d")
    with monkeypatch.context() as patch:
        patch.setattr(cache_manager.shutil, "rmtree", refuse)
        swept = caches.sweep()
        assert swept.removed == ()
        assert "cannot remove what a dead run left in" in swept.failed[0]
        words = r"cannot remove the generated samples in .*; remove it by hand"
        with pytest.raises(RunError, match=words), caches.generated("physical", 0):
            pass
        with pytest.raises(ValueError, match="the real trouble") as caught, caches.generated("physical", 1):
            raise ValueError("the real trouble")
        assert "cannot remove the generated samples" in caught.value.__notes__[0]
    caches.sweep()
    caches.close()
    assert files(tmp_path) == []
