"""What a build shows while it runs: a bar with time left on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from types import FrameType

    from rich.progress import Progress, TaskID


class Nothing:
    """Shows nothing (--quiet), but heeds Ctrl-C as all watchers do.

    An interrupt that arrives while Python cleans an object up is printed and forgotten: here it is raised
    again.
    """

    def __init__(self, console: Console, heard: list[int]) -> None:
        self.console = console
        self.heard = heard

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        self.heed()

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        self.heed()

    def heed(self) -> None:
        if self.heard:
            raise KeyboardInterrupt


class Lines(Nothing):
    """One line for each stage, for logs, which get no bars."""

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        self.heed()
        how = "unchanged, reused" if reused else f"done in {seconds:.1f} s"
        self.console.print(f"{name}: {how}", highlight=False)


class Bars(Lines):
    """A bar for the stage under way, above it a line for each stage done."""

    def __init__(self, console: Console, heard: list[int], progress: Progress) -> None:
        super().__init__(console, heard)
        self.bars = progress
        self.task: TaskID | None = None
        self.name = ""

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        self._close()
        super().stage(name, reused=reused, seconds=seconds)

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        self.heed()
        if name != self.name:
            self._close()
            self.name, self.task = name, self.bars.add_task(name, total=total, detail=detail)
        assert self.task is not None
        self.bars.update(self.task, completed=done, total=total, detail=detail)

    def _close(self) -> None:
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task, self.name = None, ""


@contextmanager
def watching(*, quiet: bool) -> Iterator[Nothing]:
    """The watcher that suits where stderr goes."""
    console = Console(stderr=True)
    with interrupts() as heard:
        if quiet:
            yield Nothing(console, heard)
        elif not console.is_terminal:
            yield Lines(Console(stderr=True, soft_wrap=True), heard)
        else:
            with bars(console) as progress:
                yield Bars(console, heard, progress)


def bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[detail]}[/dim]"),
    )
    return Progress(*columns, console=console, transient=True)


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """The interrupts heard so far; each raises KeyboardInterrupt as usual."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, before)
