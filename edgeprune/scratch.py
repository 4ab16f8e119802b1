"""Folders for files that nobody needs afterwards: what a kill leaves of them, the next build removes.

All of a user's lie in one folder of the system's folder for temporary files. A process locks each of its own;
the kernel frees that lock when the process ends, however it ends, and a folder without one may go.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "edgeprune-"
TRIES = 100


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder for as long as the block lasts."""
    place, lock = _take()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(lock)
        sweep()


@contextlib.contextmanager
def of_libraries(place: Path) -> Iterator[None]:
    """Let libraries that ask Python for temporary files in this process put them here as well."""
    before = tempfile.tempdir
    tempfile.tempdir = str(place)
    try:
        yield
    finally:
        tempfile.tempdir = before


def sweep() -> None:
    """Remove what processes that are gone have left, and an empty folder of the user; never raises."""
    with contextlib.suppress(OSError, _NotOursError), _held(_home(make=False)) as home:
        _sweep(home)
        home.rmdir()


def _take() -> tuple[Path, int]:
    """A folder of our own, and its lock."""
    for _ in range(TRIES):
        try:
            with _held(_home(make=True)) as home:  # nobody sweeps while a folder has no lock yet
                _sweep(home)
                place = Path(tempfile.mkdtemp(dir=home))
                return place, _lock(place)
        except FileNotFoundError:  # somebody was the last to leave
            continue
        except _NotOursError as err:
            log.warning("%s: temporary files go elsewhere, and stay after a kill", err)
            break
    place = Path(tempfile.mkdtemp(prefix=PREFIX))
    return place, _lock(place)


class _NotOursError(Exception):
    """Somebody else made the folder of our name: what they could read or remove does not go there."""


def _home(*, make: bool) -> Path:
    """The folder of this user."""
    home = Path(tempfile.gettempdir(), f"{PREFIX}{os.getuid()}")
    if make:
        with contextlib.suppress(FileExistsError):
            home.mkdir(mode=0o700)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise _NotOursError(f"{home} is not ours alone")
    return home


@contextlib.contextmanager
def _held(home: Path) -> Iterator[Path]:
    lock = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(lock), home.lstat()):
            raise FileNotFoundError(f"{home} was removed, and made again")
        yield home
    finally:
        os.close(lock)


def _lock(place: Path) -> int:
    lock = os.open(place, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _sweep(home: Path) -> None:
    for place in home.iterdir():
        try:
            lock = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process lives, or nothing can be locked here
            continue
        else:
            log.info("%s: left by a process that is gone; removed", place)
            shutil.rmtree(place, ignore_errors=True)
        finally:
            os.close(lock)
