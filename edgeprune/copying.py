"""Deep copies of networks."""

from __future__ import annotations

import copy
import warnings
from typing import TypeVar

Copied = TypeVar("Copied")


def copied(value: Copied, replaced: dict[int, object] | None = None) -> Copied:
    """A deep copy; `replaced` maps the id of a part to what stands in the copy in its place."""
    with warnings.catch_warnings():
        # torch 2.13 warns of a class of its own that a copy of any traced graph makes; 2.15 does not.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        return copy.deepcopy(value, replaced)
