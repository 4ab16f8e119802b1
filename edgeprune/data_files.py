"""Where the data that ships with edgeprune lies: target profiles and calibration files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeprune.errors import InputError

PACKAGE = Path(__file__).resolve().parent


def data_folder(name: Literal["targets", "calibration"]) -> Path:
    """The shipped folder: inside the package when installed, at the repository's root in a checkout.

    Raises:
        InputError: neither is there: the installation is incomplete.
    """
    candidates = (PACKAGE / "_data" / name, PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise InputError(f"{candidates[0]}: the data folder is missing; install edgeprune again.")
