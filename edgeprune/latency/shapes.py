"""Which widths an axis of an operator follows, told from its sizes in the variants that were measured.

Runtimes fuse, rename and reorder what was exported, but say the shapes they work on. The variants have a
pattern of widths for each group, so that the sizes of an axis over the variants name its groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from edgeprune.records import Dimension, WidthForm

BLOCKS = (1, 8, 16, 4)
"""Channels that kernels pad to."""
Sizes = tuple[int, ...]
Doubles = NDArray[np.float64]
Pattern = tuple[Fraction, ...]


class Attribution:
    """The patterns of all forms over some variants, the dense network first."""

    def __init__(self, forms: Sequence[WidthForm], widths: Sequence[Mapping[str, int]]) -> None:
        self._known: dict[Pattern, tuple[int, int]] = {}
        self._sizes = [tuple(form.size(dict(w)) for w in widths) for form in forms]
        for block in BLOCKS:
            for number, sizes in enumerate(self._sizes):
                self._known.setdefault(_pattern(padded(sizes, block)), (number, block))

    def dimension(self, sizes: Sizes) -> Dimension:
        """The axis with these sizes over the variants; one that no form explains goes with the nearest."""
        if len(set(sizes)) == 1:
            return Dimension(size=sizes[0])
        found = self._known.get(_pattern(sizes))
        if found is None:
            found = (self._nearest(sizes), 1)
        return Dimension(size=sizes[0], form=found[0], block=found[1])

    def _nearest(self, sizes: Sizes) -> int:
        relative = np.array(sizes) / sizes[0]
        distances = [float(np.abs(np.array(s) / s[0] - relative).sum()) for s in self._sizes]
        return int(np.argmin(distances))


def padded(sizes: Sizes, block: int) -> Sizes:
    """Sizes in whole blocks."""
    return tuple(-(-size // block) * block for size in sizes)


def _pattern(sizes: Sizes) -> Pattern:
    """Sizes relative to the dense network's: a flattened axis has the pattern of its channels."""
    return tuple(Fraction(size, sizes[0]) for size in sizes)


def form_sizes(forms: Sequence[WidthForm], widths: Sequence[Mapping[str, int]]) -> Doubles:
    """Size of every form for every set of widths, shape (forms, sets)."""
    if not forms:
        return np.zeros((0, len(widths)))
    return np.array([[form.size(dict(w)) for w in widths] for form in forms], dtype=np.float64)


def dimension_sizes(dimension: Dimension, sizes: Doubles, dense: Doubles) -> Doubles:
    """Size of an axis for every set of widths, shape (sets,).

    Args:
        sizes: From `form_sizes`.
        dense: Sizes of the forms in the dense network, shape (forms,).
    """
    if dimension.form is None:
        return np.full(sizes.shape[1], float(dimension.size))
    block = dimension.block
    now = np.ceil(sizes[dimension.form] / block)
    found: Doubles = dimension.size * now / np.ceil(dense[dimension.form] / block)
    return found
