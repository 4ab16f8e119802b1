"""How much room on disk a build takes, and whether it is there before the analysis begins."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from edgeprune.errors import RunFolderError

log = logging.getLogger(__name__)


def check_room(needs: Mapping[Path, float]) -> None:
    """Announce what will be written, and refuse where a disk has not that much left.

    Args:
        needs: Folder that exists -> bytes that will lie there at once, at most, besides what is there now.

    Raises:
        RunFolderError: naming the folder; folders on one disk share what it has.
    """
    disks: dict[int, list[Path]] = {}
    for folder, wanted in needs.items():
        log.info("needs up to %.0f MB of disk in %s", wanted / 1e6, folder)
        disks.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in disks.values():
        wanted, free = sum(needs[folder] for folder in folders), shutil.disk_usage(folders[0]).free
        if wanted > free:
            raise RunFolderError(
                f"{' and '.join(map(str, folders))}: up to {wanted / 1e6:.0f} MB will be written there, and "
                f"{free / 1e6:.0f} MB are free; free some space, or choose another output folder (TMPDIR for "
                "temporary files)."
            )


def file_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
