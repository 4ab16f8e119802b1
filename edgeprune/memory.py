"""How much memory an analysis may take. What does not fit is computed again when it is asked for."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from edgeprune.errors import ConfigError

log = logging.getLogger(__name__)

KEPT_SHARE = 0.5
"""Of what is left under the limit: the rest is for what allocators do not give back."""
PAGE = os.sysconf("SC_PAGE_SIZE")
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Allowance:
    """Bytes that values kept for later may take together. For any number of threads.

    Args:
        most: How many; None: any number.
    """

    def __init__(self, most: float | None = None) -> None:
        self.most = most
        self.taken = 0
        self._lock = threading.Lock()

    def exchange(self, old: int, new: int) -> bool:
        """Give bytes back and take others; False where those do not fit: then only the old ones are back."""
        with self._lock:
            self.taken -= old
            fits = self.most is None or self.taken + new <= self.most
            self.taken += new if fits else 0
        return fits


def allowance(limit: int | None, *, needed: float = 0) -> Allowance:
    """What may be kept so that the whole process stays within a limit.

    Args:
        limit: Of the process, bytes; None: half of the memory that the machine (or its container) has, and
            nothing is kept where that is too little.
        needed: Bytes that will be taken in any case.

    Raises:
        ConfigError: the process has taken that much already, or will.
    """
    most = limit or available() // 2
    taken = resident() + needed
    log.info("needs %.0f MB of memory in any case, keeps more up to %.0f MB", taken / 1e6, most / 1e6)
    if taken >= most and limit is not None:
        raise ConfigError(
            f"--memory-limit {most / 1e6:.0f}MB: network, images and libraries take {taken / 1e6:.0f} MB; "
            "give more than that, or fewer images (--samples-per-class)."
        )
    return Allowance(max(most - taken, 0) * KEPT_SHARE)


def available() -> int:
    """Bytes of memory that this machine has, or the container we are in."""
    most = os.sysconf("SC_PHYS_PAGES") * PAGE
    for place in CONTAINER_LIMITS:
        try:
            most = min(most, int(Path(place).read_text()))
        except (OSError, ValueError):  # not there, or no limit ("max")
            continue
    return most


def resident() -> int:
    """Bytes of memory that this process takes now; 0 where that is not known."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def total_bytes(values: Iterable[object]) -> int:
    """Bytes of all arrays and tensors among these values, each counted once."""
    sizes = {id(value): getattr(value, "nbytes", 0) for value in values}
    return sum(sizes.values())
