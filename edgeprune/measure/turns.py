"""Measurements on one machine take turns: two at once would only measure each other."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeprune.measure import worker

log = logging.getLogger(__name__)

FOREVER = float("inf")


@contextlib.contextmanager
def turn(on_wait: Callable[[], None] | None = None, *, folder: Path | None = None) -> Iterator[None]:
    """Hold this machine's turn; `on_wait` is called once when somebody else has it.

    All users share one folder's lock, and the kernel frees it when its holder ends, however it ends.
    """
    lock = worker.open_lock(folder or Path(tempfile.gettempdir()))
    if lock is None:
        log.warning("no lock can be made in %s: other measurements may run at once", tempfile.gettempdir())
        yield
        return
    try:
        if not worker.take(lock, 0):
            log.info("waiting: another measurement runs on this machine")
            if on_wait:
                on_wait()
            worker.take(lock, FOREVER)
        yield
    finally:
        os.close(lock)
