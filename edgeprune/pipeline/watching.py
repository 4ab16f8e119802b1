"""Who sees a build go by."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Sees a build go by."""

    def stage(self, name: str, *, reused: bool, seconds: float) -> None:
        """A stage is done."""

    def progress(self, name: str, done: int, total: int, detail: str) -> None:
        """A stage is under way."""


class Silence:
    """A watcher that says nothing."""

    def stage(self, name: str, *, reused: bool, seconds: float) -> None: ...
    def progress(self, name: str, done: int, total: int, detail: str) -> None: ...
