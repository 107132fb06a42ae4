"""Runs of hyco-engine in TensorBoard. It imports torch and tensorboard only when it is built."""

from __future__ import annotations

from hyco_engine import Record, hookimpl, imported, option, options


@options
class TensorBoardOptions:
    """`[trackers.tensorboard]`."""

    folder: str = option("tensorboard", help="name of the folder with the event files, in the run folder")
    images: bool = option(True, help="the run's figures as images")

    def __attrs_post_init__(self) -> None:
        # both separators are refused on every system, so that a spec is portable
        if not self.folder.strip(".") or any(c in "/\\" or not c.isprintable() for c in self.folder):
            raise ValueError(f"folder {self.folder!r} must be the plain name of a folder in the run folder")


@hookimpl
def hyco_trackers() -> list[Record]:
    return [
        Record(
            kind="tensorboard",
            summary="metrics, settings and figures as event files in the run folder, for TensorBoard",
            options=TensorBoardOptions,
            factory=imported("hyco_engine_tensorboard.tracker"),
        )
    ]
