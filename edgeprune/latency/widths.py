"""Which pruned variants of a network to measure: every group at a few widths, in a pattern of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LEAST_KEPT = 0.25
"""Share of a group's units that a variant keeps at least, where the step allows it."""
TRIES = 50


def variants(
    units: Mapping[str, int], *, steps: Mapping[str, int], count: int, seed: int = 0
) -> list[dict[str, int]]:
    """Widths of each group in `count` variants: multiples of the step, drawn evenly.

    Groups of one size get different patterns over the variants, where there are enough: an operator's axis
    then tells by its sizes alone which groups it belongs to.

    Args:
        units: Group -> its width in the dense network.
        steps: Group -> units by which its width changes.
        count: Variants.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    taken: set[tuple[int, ...]] = set()
    columns = {}
    for group, width in units.items():
        levels = possible(width, steps[group])
        for _ in range(TRIES):
            column = tuple(int(width_) for width_ in _stratified(levels, count, rng))
            if column not in taken and (len(levels) == 1 or len(set(column)) > 1 or count == 1):
                break
        taken.add(column)
        columns[group] = column
    return [{group: column[number] for group, column in columns.items()} for number in range(count)]


def possible(width: int, step: int) -> list[int]:
    """The widths that a group may have: its own, and the multiples of the step below."""
    least = max(step, LEAST_KEPT * width)
    return [*(w for w in range(step, width, step) if w >= least), width]


def _stratified(levels: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """Draws that are spread over the levels, in random order."""
    places = (np.arange(count) + rng.random(count)) / count * len(levels)
    chosen = [levels[min(int(place), len(levels) - 1)] for place in places]
    return [chosen[number] for number in rng.permutation(count)]
