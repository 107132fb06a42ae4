"""Progress that rich draws in place: the phase with bar, rate and time left, and a line with the current values."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task


class Bars:
    """Draws on one stream, which must be a terminal; rich honours NO_COLOR."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text

        self._console = Console(file=stream, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:g}/{task.fields[of]}", markup=False),
            _rate_column(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("", total=None, visible=False, of="", unit="")
        self._status = Text("", no_wrap=True, overflow="ellipsis", style="dim")
        self._live = Live(
            Group(self._progress, self._status), console=self._console, refresh_per_second=4, transient=True
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def phase(self, title: str, total: int | None, unit: str) -> None:
        """Begin a phase; an empty title hides the bar."""
        self._progress.reset(self._task, total=total, completed=0, visible=bool(title), description=title)
        self._progress.update(self._task, total=total, of=f"{total or '?'} {unit}".rstrip(), unit=unit)

    def progress(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def status(self, text: str) -> None:
        self._status.plain = text

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)


def _rate_column() -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            unit = str(task.fields["unit"]).removesuffix("s")
            if not speed:
                return Text("")
            # a rate below one in a second is easier to read as its inverse
            text = f"{1 / speed:.3g} s/{unit or 'step'}" if speed < 1 else f"{speed:.3g}/s"
            return Text(text, style="dim")

    return Rate()
