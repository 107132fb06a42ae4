"""The run folder: what lies in it, that nothing is torn, and that equal runs leave equal bytes."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import error_naming
from safetensors import safe_open

from hyco_engine.builtin.trackers import CsvOptions, hyco_trackers
from hyco_engine.errors import DataError, RunError, SpecError
from hyco_engine.hooks.registry import Registry
from hyco_engine.runs.environment import describe_environment
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.folder import RunFolder
from hyco_engine.runs.metrics import read_metrics, read_summary

TRAIN = {"cycle": 0, "phase": "train_synthetic"}


def message(caught: pytest.ExceptionInfo[BaseException]) -> str:
    return str(caught.value)


class TestCreate:
    def test_numbers_go_on_after_the_highest(self, tmp_path: Path) -> None:
        for taken in ("a-1", "a-7", "a-b-9", "b-12", "a-x", "a-٣"):
            (tmp_path / "runs" / taken).mkdir(parents=True)
        assert RunFolder.create(tmp_path / "runs", "a").path == tmp_path / "runs" / "a-8"

    def test_makes_missing_parents(self, tmp_path: Path) -> None:
        assert RunFolder.create(tmp_path / "x" / "runs", "a").path.is_dir()

    def test_no_two_get_the_same(self, tmp_path: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            folders = list(pool.map(lambda _: RunFolder.create(tmp_path, "a").path, range(24)))
        assert sorted(folders) == sorted(tmp_path / f"a-{n}" for n in range(1, 25))

    def test_own_folder_may_be_missing_or_empty(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for name in ("empty", "deep/er"):
            assert RunFolder.create(tmp_path, "a", tmp_path / name).path == tmp_path / name

    def test_own_folder_that_holds_something_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(SpecError) as caught:
            RunFolder.create(tmp_path / "runs", "a", tmp_path)
        assert message(caught) == (
            f"--run-dir: the run folder {tmp_path} is not empty, and results are never overwritten; "
            "resume its run with --resume, name a new folder, or leave out --run-dir"
        )
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_own_folder_is_given_once(self, tmp_path: Path) -> None:
        RunFolder.create(tmp_path, "a", tmp_path / "mine")
        with error_naming(SpecError, tmp_path / "mine", key="--run-dir"):
            RunFolder.create(tmp_path, "a", tmp_path / "mine")

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SpecError) as caught:
            RunFolder.create(tmp_path, "a", tmp_path / "file")
        assert message(caught) == f"--run-dir: {tmp_path / 'file'} is not a folder"
        with error_naming(SpecError, tmp_path / "file"):
            RunFolder.create(tmp_path / "file", "a")

    @pytest.mark.parametrize(
        "name", ["../a", "a/b", "a\\b", ".a", "..", "", " a", "a\nb", "a\0", "a" * 201, "<a>", "a b", "-a"]
    )
    def test_names_stay_inside(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="cannot name a folder"):
            RunFolder.create(tmp_path / "runs", name)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a", "_a", "Re-100_nu.01"])
    def test_other_names_are_taken_as_they_are(self, tmp_path: Path, name: str) -> None:
        assert RunFolder.create(tmp_path, name).path == tmp_path / f"{name}-1"


class TestMetrics:
    def test_lines(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        folder.started({"name": "a"})
        folder.metrics({"train/loss": 0.5, "step": 3, "epoch": 1, **TRAIN, "val/nrmse": np.float64(0.25)})
        folder.metrics({**TRAIN, "train/loss": float("nan"), "param/nu": float("-inf")})
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert list(lines[0]) == ["time", "cycle", "phase", "epoch", "step", "train/loss", "val/nrmse"]
        assert lines[1] | {"time": 0} == {
            "time": 0,
            **TRAIN,
            "train/loss": None,
            "param/nu": None,
            "nonfinite": {"train/loss": "nan", "param/nu": "-inf"},
        }
        records = read_metrics(tmp_path)
        assert records[0]["val/nrmse"] == 0.25
        assert np.isnan(records[1]["train/loss"])
        assert records[1]["param/nu"] == float("-inf")
        assert "nonfinite" not in records[1]
        folder.close()

    @pytest.mark.parametrize(
        ("record", "told"),
        [
            ({"x": torch.ones(1)}, "metrics.x: cannot write a Tensor as JSON"),
            ({"x": [1.0]}, "metrics.x: a line of metrics holds single values"),
            ({"time": 1.0}, "metrics.time: the run folder uses this name itself; use another one"),
            ({1: 2}, "metrics: the key 1 must be text"),
        ],
    )
    def test_refuses_early(self, tmp_path: Path, record: dict[str, object], told: str) -> None:
        folder = RunFolder(tmp_path)
        with pytest.raises(TypeError) as caught:
            folder.metrics(record)
        assert message(caught).startswith(told)
        assert not (tmp_path / "metrics.jsonl").exists()

    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"time": 1}\n{"time": 2}\n{"ti')
        assert read_metrics(tmp_path) == [{"time": 1}, {"time": 2}]

    def test_a_damaged_line_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"time": 1}\n{"ti\n{"time": 3}\n')
        with pytest.raises(DataError) as caught:
            read_metrics(tmp_path)
        assert message(caught).startswith(f"{tmp_path / 'metrics.jsonl'}:2 is damaged: ")

    def test_no_run_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError) as caught:
            read_summary(tmp_path)
        assert message(caught) == f"{tmp_path} is no run folder: there is no summary.json in it"
        with error_naming(DataError, tmp_path / "gone", "metrics.jsonl"):
            read_metrics(tmp_path / "gone")


class TestWeights:
    def test_bytes_do_not_depend_on_order(self, tmp_path: Path) -> None:
        a, b = torch.arange(6.0).reshape(2, 3).T, torch.ones(3, dtype=torch.float64)
        metadata = {f"key{i}": str(i) for i in range(9)}
        first = RunFolder(tmp_path / "1").save_weights("physical-final", {"a": a, "b": b}, metadata)
        backwards = dict(reversed(metadata.items()))
        second = RunFolder(tmp_path / "2").save_weights("physical-final", {"b": b, "a": a}, backwards)
        assert first == tmp_path / "1" / "weights" / "physical-final.safetensors"
        assert first.read_bytes() == second.read_bytes()
        with safe_open(first, "pt") as file:
            assert file.metadata() == metadata
            assert torch.equal(file.get_tensor("a"), a)
            assert torch.equal(file.get_tensor("b"), b)

    def test_tied_weights_and_no_metadata(self, tmp_path: Path) -> None:
        weight = torch.nn.Parameter(torch.ones(2, 2))
        path = RunFolder(tmp_path).save_weights("s-best", {"one": weight, "two": weight})
        with safe_open(path, "pt") as file:
            assert sorted(file.keys()) == ["one", "two"]
            assert not file.metadata()

    def test_metadata_is_text(self, tmp_path: Path) -> None:
        with error_naming(TypeError, "'epoch'", "int"):
            RunFolder(tmp_path).save_weights("a", {}, {"epoch": 3})  # type: ignore[dict-item]

    def test_names_stay_inside(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot name a folder"):
            RunFolder(tmp_path).save_weights("../a", {})


class TestWhole:
    def tell(self, folder: RunFolder) -> None:
        folder.started({"name": "a", "folder": folder.path, "spec": '[run]\nname = "a"\n'})
        folder.phase_started({**TRAIN, "total": 5})
        logging.getLogger("hyco_engine.data").warning("from a library")
        folder.metrics({**TRAIN, "train/loss": 0.25})
        folder.warned("mind the gap")
        folder.phase_ended({**TRAIN, "seconds": 1.25})
        folder.save_weights("synthetic-final", {"w": torch.ones(2)})
        folder.finished({"status": "completed", "error": None, "worst": float("inf")})

    def test_log_is_there_and_the_logger_as_before(self, tmp_path: Path) -> None:
        logger = logging.getLogger("hyco_engine")
        before = (logger.level, list(logger.handlers))
        folder = RunFolder.create(tmp_path, "a")
        self.tell(folder)
        logger.warning("after the end")
        lines = (folder.path / "log.txt").read_text().splitlines()
        assert [line.split(" ", 2)[2] for line in lines] == [
            f"INFO run a in {folder.path}",
            "INFO cycle 0 train_synthetic started: total 5",
            "WARNING from a library",
            "WARNING mind the gap",
            "INFO cycle 0 train_synthetic ended: seconds 1.25",
            "INFO completed",
        ]
        assert (logger.level, list(logger.handlers)) == before
        assert (folder.path / "spec.toml").read_text() == '[run]\nname = "a"\n'
        assert read_summary(folder.path) == {"status": "completed", "error": None, "worst": None}

    def test_equal_runs_leave_equal_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            self.tell(RunFolder(tmp_path / name))
        files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
        assert len(files) == 6
        for file in files:
            if file.name not in ("log.txt", "metrics.jsonl", "checksums.json"):
                assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        without_time = [[r | {"time": 0} for r in read_metrics(tmp_path / name)] for name in ("a", "b")]
        assert without_time[0] == without_time[1]

    def test_two_runs_in_two_threads_have_logs_of_their_own(self, tmp_path: Path) -> None:
        here = RunFolder.create(tmp_path, "here")
        here.started({"name": "here"})
        other = threading.Thread(target=lambda: self.tell(RunFolder.create(tmp_path, "there")))
        other.start()
        other.join()
        here.finished({"status": "completed"})
        assert "library" not in (here.path / "log.txt").read_text()
        assert "library" in (tmp_path / "there-1" / "log.txt").read_text()

    def test_a_summary_that_was_written_stays(self, tmp_path: Path) -> None:
        folder = RunFolder.create(tmp_path, "a")
        folder.write_summary({"status": "failed", "error": "diverged"})
        folder.finished({"status": "failed"})
        assert read_summary(folder.path)["error"] == "diverged"

    def test_a_run_that_never_began_leaves_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for run_dir, left in ((None, False), (tmp_path / "mine", False), (tmp_path / "empty", True)):
            folder = RunFolder.create(tmp_path / "runs", "a", run_dir)
            folder.started({"name": "a", "spec": "x = 1\n"})
            (folder.path / "figures").mkdir()
            assert folder.exists
            folder.discard()
            folder.warned("too late")
            folder.finished({"status": "failed"})
            assert not folder.exists
            assert folder.path.exists() == left
        assert not any((tmp_path / "empty").iterdir())


class TestWriteAtomic:
    @pytest.mark.parametrize(
        ("number", "advice"),
        [
            (errno.ENOSPC, "free space or choose another folder"),
            (errno.EDQUOT, "free space or choose another folder"),
            (errno.EACCES, "allow writing there or choose another folder"),
            (errno.EROFS, "allow writing there or choose another folder"),
            (errno.ENAMETOOLONG, "choose a shorter name"),
            (errno.EIO, "choose another folder"),
        ],
    )
    def test_a_failure_leaves_the_old_content_and_nothing_else_and_is_told_with_what_helps(
        self, number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "summary.json"
        write_atomic(path, "old")

        def fails(handle: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("os.fsync", fails)
        with pytest.raises(RunError) as caught:
            write_atomic(path, "new")
        assert message(caught) == f"cannot write {path}: {os.strerror(number)}; {advice}"
        assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
        assert path.read_text() == "old"


def test_environment_is_json_without_paths(tmp_path: Path) -> None:
    registry = Registry()
    environment = describe_environment(registry)
    path = RunFolder(tmp_path).write_environment(environment)
    assert json.loads(path.read_text()) == environment
    assert set(environment) == {"packages", "plugins", "python", "platform", "device", "threads", "torch"}
    assert environment["threads"]["torch"] == torch.get_num_threads()
    assert environment["torch"]["version"] == torch.__version__
    assert str(Path.cwd()) not in path.read_text()


class TestCsv:
    def test_columns_of_all_phases(self, tmp_path: Path) -> None:
        (record,) = hyco_trackers()
        tracker = record.factory(CsvOptions(), None)
        tracker.started({"name": "a", "folder": tmp_path})
        tracker.metrics({**TRAIN, "train/loss": 0.5})
        tracker.phase_ended({})
        assert (tmp_path / "metrics.csv").read_text() == "cycle,phase,train/loss\n0,train_synthetic,0.5\n"
        tracker.metrics({"cycle": 0, "phase": "train_physical", "param/nu": 0.1})
        tracker.finished({})
        assert (tmp_path / "metrics.csv").read_text() == (
            "cycle,phase,train/loss,param/nu\n0,train_synthetic,0.5,\n0,train_physical,,0.1\n"
        )

    def test_without_a_folder(self, caplog: pytest.LogCaptureFixture) -> None:
        (record,) = hyco_trackers()
        tracker = record.factory(CsvOptions(), None)
        tracker.started({"name": "a", "folder": None})
        tracker.metrics({**TRAIN, "train/loss": 0.5})
        tracker.finished({})
        assert caplog.messages == ["tracker csv: the run has no folder, so nothing is written"]

    def test_never_overwrites(self, tmp_path: Path) -> None:
        (record,) = hyco_trackers()
        (tmp_path / "log.csv").write_text("")
        tracker = record.factory(CsvOptions(file="log.csv"), None)
        with error_naming(SpecError, tmp_path / "log.csv"):
            tracker.started({"folder": tmp_path})

    @pytest.mark.parametrize("file", ["", "..", "../a.csv", "/a.csv", "a\\b.csv", "a\nb.csv", "summary.json"])
    def test_stays_inside(self, file: str) -> None:
        with error_naming(ValueError, ".csv"):
            CsvOptions(file=file)
