"""Labels in another order than the network's outputs: the commonest reason why nothing is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from edgeprune.records import Ints

FEWEST = 5
"""Images a class, on average, below which chance finds an order for anything."""
SURE = 0.6
"""Share of the images that are right in the other order, at least; and twice as many as now."""
SHOWN = 3


def other_order(answers: Ints, labels: Ints, names: Sequence[str], outputs: int) -> str | None:
    """What the order of the classes seems to be, where the answers are mostly right in that one alone.

    Args:
        answers: Class that the network gives each image, shape (N,).
        labels: Class of each image, shape (N,).
        names: Class names, in the order of the labels.
        outputs: Classes that the network knows.
    """
    present = np.unique(labels)
    if len(labels) < FEWEST * len(present):
        return None
    counts = np.zeros((len(present), outputs), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(present, labels), answers), 1)
    rows, found = optimize.linear_sum_assignment(counts, maximize=True)
    share = counts[rows, found].sum() / len(labels)
    if share < max(SURE, 2 * float((answers == labels).mean())):
        return None
    meant = {int(output): names[int(present[row])] for row, output in zip(rows, found, strict=True)}
    some = [f"{name} as {output}" for output, name in meant.items() if names.index(name) != output]
    told = f"the network gives images of {', '.join(some[:SHOWN])}{', ...' if len(some) > SHOWN else ''}"
    if len(meant) == outputs:
        order = ", ".join(f'"{meant[output]}"' for output in range(outputs))
        return f"{told}: it was trained with another order; set classes = [{order}]"
    return f"{told}: it has {outputs} outputs; set `classes` to the names of all, in their order"
