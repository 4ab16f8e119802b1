"""What a build shows while it runs: a bar with time left on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


SECONDS_BETWEEN_LINES = 60.0


class Lines:
    """One line for each stage, for logs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.clock = clock
        self.name, self.started, self.said = "", 0.0, 0.0

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        how = "unchanged, reused" if reused else f"done in {seconds:.1f} s"
        self.console.print(f"{name}: {how}", highlight=False)

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        """A line a minute: logs get no bars."""
        now = self.clock()
        if name != self.name:
            self.name, self.started, self.said = name, now, now
        if now - self.said >= SECONDS_BETWEEN_LINES and done:
            self.said = now
            left = (now - self.started) * (total - done) / done
            self.console.print(
                f"{name}: {done / max(total, 1):.0%}, about {left / 60:.0f} min left; {detail}",
                highlight=False,
                markup=False,
            )


class Bars(Lines):
    """A bar for the stage under way, above it a line for each stage done."""

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self.bars = progress
        self.task: TaskID | None = None
        self.name = ""

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        self._close()
        super().stage(name, reused=reused, seconds=seconds)

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        if name != self.name:
            self._close()
            self.name, self.task = name, self.bars.add_task(name, total=total, detail=detail)
        assert self.task is not None
        self.bars.update(self.task, completed=done, total=total, detail=detail)

    def _close(self) -> None:
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task, self.name = None, ""


class Nothing(Lines):
    """For --quiet."""

    def stage(self, name: str, *, reused: bool, seconds: float) -> None: ...
    def progress(self, name: str, done: int, total: int, detail: str) -> None: ...


@contextmanager
def watching(*, quiet: bool) -> Iterator[Lines]:
    """The watcher that suits where stderr goes."""
    console = Console(stderr=True)
    if quiet:
        yield Nothing(console)
    elif not console.is_terminal:
        yield Lines(Console(stderr=True, soft_wrap=True))
    else:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[detail]}[/dim]"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield Bars(console, progress)
