"""The cache folders of a run: their places, their owners, their sizes, and their removal."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import attrs
from filelock import FileLock

from hyco_engine.errors import RunError, SpecError
from hyco_engine.runs.lock import try_lock, unlock

if TYPE_CHECKING:
    from hyco_engine.interfaces import Player

CLAIM_S = 10.0
"""How many seconds a run waits for its own lock, which another run's sweep may hold for a moment."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CYCLE = re.compile(r"cycle_[0-9]{3,9}")
_PREDICTIONS = re.compile(r"(synthetic|physical)_preds")
_OWNERS = "owners"
_LOCK = ".lock"


@attrs.frozen(kw_only=True)
class Usage:
    """Bytes in the files of this data set's real tensors and evaluation, and of this run's generated samples."""

    tensors: int
    generated: int
    evaluation: int


@attrs.frozen(kw_only=True)
class Swept:
    """The result of a sweep: the folders of dead runs that it removed, and why it could not remove others."""

    removed: tuple[Path, ...]
    failed: tuple[str, ...]


class CacheManager:
    """The folders of one run below a cache root that several runs may share:

        <root>/tensors/<dset>/   <root>/evaluation/<dset>/
        <root>/generated/{synthetic,physical}_preds/cycle_000/<dset>/<run_id>/

    `generated_root` replaces `<root>/generated`: None is the default, "" means that generated samples have no folder.
    From its first use of generated folders until `close` a run holds the lock `owners/<run_id>.lock` beside them. A run
    whose lock is free is dead, and `sweep` removes what it left. Names that come from disk are used only if they are
    plain, and symbolic links below the root are never followed.
    Raise SpecError where `run_id` or `dset` is no plain name.
    """

    def __init__(self, root: Path | None, run_id: str, dset: str, generated_root: Path | str | None = None) -> None:
        for key, name in (("run.name", run_id), ("data.name", dset)):
            if not is_plain_name(name):
                raise SpecError(
                    f"{name!r} cannot name a cache folder: use at most 128 letters, digits, '.', '_' and '-', "
                    f"beginning with a letter or a digit",
                    key=key,
                )
        self.run_id = run_id
        self.dset = dset
        self.root = None if root is None else Path(root).resolve()
        self.generated_root: Path | None = None
        # the folder that the user names may be a link; links below it are not followed
        self._base: Path | None = None
        if generated_root is None and self.root is not None:
            self._base, self.generated_root = self.root, self.root / "generated"
        elif generated_root:
            self._base = self.generated_root = Path(generated_root).resolve()
        self.peak_bytes = 0
        self._lock: FileLock | None = None
        self._active = 0

    @property
    def has_folder(self) -> bool:
        """Return True if generated samples have a place on disk."""
        return self.generated_root is not None

    @property
    def tensors(self) -> Path | None:
        """Return the folder of the data set's real tensors, which may not exist yet."""
        return None if self.root is None else self.root / "tensors" / self.dset

    @property
    def evaluation(self) -> Path | None:
        """Return the folder of the data set's evaluation, which may not exist yet."""
        return None if self.root is None else self.root / "evaluation" / self.dset

    # --- generated samples ------------------------------------------------------------------------------------

    @contextmanager
    def generated(self, teacher: Player, cycle: int) -> Iterator[Path | None]:
        """Give an empty folder for the samples of `teacher` in `cycle`, removed at the end; None without a root.

        Raise RunError where the folder cannot be made, or removed after success.
        """
        if self.generated_root is None:
            yield None
            return
        self._claim_own()
        folder = self.generated_root / f"{teacher}_preds" / f"cycle_{cycle:03d}" / self.dset / self.run_id
        self._active += 1
        try:
            self._make_empty(folder)
            yield folder
        except BaseException as error:
            try:
                self._drop(folder)
            except RunError as left:
                error.add_note(str(left))
            raise
        else:
            self._drop(folder)
        finally:
            self._active -= 1

    def _make_empty(self, folder: Path) -> None:
        try:
            self._refuse_links(folder)
            if folder.exists():
                self._remove(folder)
            # another run may remove the empty parents while this one makes its folder
            for _ in range(100):
                with suppress(FileNotFoundError):
                    folder.mkdir(parents=True)
                    break
            else:
                raise FileNotFoundError(f"other runs remove {folder.parent} again and again")
        except OSError as error:
            raise RunError(_cannot("make the folder for generated samples", folder, error)) from error

    def _drop(self, folder: Path) -> None:
        self.note(tree_bytes(folder))
        try:
            if os.path.lexists(folder):
                self._remove(folder)
        except OSError as error:
            raise RunError(_cannot("remove the generated samples in", folder, error, "remove it by hand")) from error
        finally:
            self._prune(folder.parent)

    def _remove(self, folder: Path) -> None:
        self._refuse_links(folder)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if folder.exists():  # a file in it, not the folder itself, was removed in between
                shutil.rmtree(folder)
        except KeyboardInterrupt:  # a second Ctrl-C must not leave samples behind
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _refuse_links(self, folder: Path) -> None:
        """Raise OSError if a part of the path below the folder that the user named is a symbolic link."""
        for part in (folder, *folder.parents):
            if part == self._base:
                return
            if part.is_symlink():
                raise OSError(f"{part} is a symbolic link, which the engine does not follow in its cache")

    def _prune(self, folder: Path) -> None:
        """Remove a folder and its parents as far as they are empty, up to the folder that the user named."""
        for part in (folder, *folder.parents):
            if part == self._base:
                return
            try:
                part.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return

    # --- ownership --------------------------------------------------------------------------------------------

    def sweep(self) -> Swept:
        """Remove the folders of dead runs, an earlier process of this run included, but never those of a live one.

        It is safe while other runs start, run and sweep. Raise RunError where a live run uses this run's id.
        """
        removed: list[Path] = []
        failed: list[str] = []
        if self.generated_root is None or not self.generated_root.is_dir():
            return Swept(removed=(), failed=())
        self._claim_own()
        for run_id in sorted(self._known_runs()):
            lock = None
            if run_id == self.run_id:
                if self._active:
                    continue
            else:
                lock = self._claim(run_id)
                if lock is None:
                    continue
            try:
                for folder in self._folders(run_id):
                    try:
                        self._remove(folder)
                        removed.append(folder)
                    except OSError as error:
                        failed.append(_cannot("remove what a dead run left in", folder, error, "remove it by hand"))
                    self._prune(folder.parent)
            finally:
                if lock is not None:
                    self._disown(run_id, lock)
        return Swept(removed=tuple(removed), failed=tuple(failed))

    def _known_runs(self) -> set[str]:
        found = {folder.name for folder in self._folders(None)}
        assert self.generated_root is not None
        for entry in _entries(self.generated_root / _OWNERS):
            name = entry.name.removesuffix(_LOCK)
            if name != entry.name and is_plain_name(name) and entry.is_file(follow_symlinks=False):
                found.add(name)
        return found

    def _folders(self, run_id: str | None) -> Iterator[Path]:
        """Yield the folders of generated samples of one run, or of all."""
        assert self.generated_root is not None
        for predictions in _folders_named(self.generated_root, _PREDICTIONS):
            for cycle in _folders_named(predictions, _CYCLE):
                for dset in _folders_named(cycle, _NAME):
                    for run in _folders_named(dset, _NAME):
                        if run_id is None or run.name == run_id:
                            yield run

    def _claim_own(self) -> None:
        if self._lock is not None:
            return
        deadline = time.monotonic() + CLAIM_S
        while (lock := self._claim(self.run_id)) is None:
            if time.monotonic() > deadline:
                raise RunError(
                    f"another run with the id {self.run_id!r} uses {self.generated_root}: wait for its end, or "
                    "give this run another name (run.name, --run-dir) or folder (augmentation.cache.directory)"
                )
            time.sleep(0.02)
        self._lock = lock

    def _claim(self, run_id: str) -> FileLock | None:
        """Acquire the lock of a run; return None while another process holds it."""
        path = self._lock_file(run_id)
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as error:
                # another run may remove the parents between two steps of this, but not the folder that the user named
                if self._base is not None and not _can_be(self._base):
                    raise RunError(_cannot("make the folder for generated samples", path.parent, error)) from error
                raise
            self._refuse_links(path)
            return try_lock(path)
        except FileNotFoundError:  # another run removed the folder just now
            return None
        except OSError as error:
            # mkdir, which the lock calls too, found the folder, and another run removed it before mkdir looked whether
            # it is one
            if isinstance(error, FileExistsError) and not _is_other(path.parent):
                return None
            raise RunError(_cannot("use the folder for generated samples,", path.parent, error)) from error

    def _disown(self, run_id: str, lock: FileLock) -> None:
        unlock(lock)
        self._prune(self._lock_file(run_id).parent)

    def _lock_file(self, run_id: str) -> Path:
        assert self.generated_root is not None
        return self.generated_root / _OWNERS / f"{run_id}{_LOCK}"

    def close(self) -> None:
        """Give up ownership. It may be called twice."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            self._disown(self.run_id, lock)

    def __enter__(self) -> CacheManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- sizes ------------------------------------------------------------------------------------------------

    def note(self, nbytes: int) -> None:
        """Record how many bytes are held now, on disk or in memory; `peak_bytes` keeps the largest number."""
        self.peak_bytes = max(self.peak_bytes, nbytes)

    def usage(self) -> Usage:
        """Return the bytes that are on disk now."""
        generated = 0
        if self.generated_root is not None:
            generated = sum(tree_bytes(folder) for folder in self._folders(self.run_id))
        self.note(generated)
        tensors, evaluation = (0 if p is None else tree_bytes(p) for p in (self.tensors, self.evaluation))
        return Usage(tensors=tensors, generated=generated, evaluation=evaluation)

    def summary(self) -> str:
        """Return one line for a log."""
        usage = self.usage()
        sizes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in attrs.asdict(usage).items())
        place = self.root or self.generated_root or "no folder"
        return f"cache {place}, data set {self.dset}: {sizes} (generated at most {self.peak_bytes / 1e6:.1f} MB)"


def _can_be(folder: Path) -> bool:
    """Return True if a folder exists or can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True


def is_plain_name(name: str) -> bool:
    """Return True if `name` can name a folder and nothing else: no separator, leading dot, or control character."""
    return _NAME.fullmatch(name) is not None


def tree_bytes(folder: Path) -> int:
    """Return the bytes of the files below `folder`, links not followed; files that vanish meanwhile count 0."""
    total = 0
    for entry in _entries(folder):
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                total += tree_bytes(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _folders_named(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    for entry in _entries(folder):
        if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    if folder.is_symlink():
        return []
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _cannot(do: str, folder: Path, error: OSError, remedy: str = "") -> str:
    remedy = remedy or "choose a writable place: augmentation.cache.directory, paths.cache, or the cache kind 'memory'"
    return f"cannot {do} {folder}: {error.strerror or error}; {remedy}"


def _is_other(path: Path) -> bool:
    """Return True if something lies at the path that is no folder.

    One look decides: between two of them, another run may make the folder again.
    """
    try:
        return not stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
