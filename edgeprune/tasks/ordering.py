"""Labels in another order than the network's outputs: the commonest reason why nothing is right."""

from __future__ import annotations

import json
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
    present, right = np.unique(labels), float((answers == labels).mean())
    if len(labels) < FEWEST * len(present) or 2 * right > 1:
        return None
    counts = np.zeros((len(present), outputs), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(present, labels), answers), 1)
    rows, found = optimize.linear_sum_assignment(counts, maximize=True)
    if counts[rows, found].sum() / len(labels) < max(SURE, 2 * right):
        return None
    meant = dict(zip(found.tolist(), present[rows].tolist(), strict=True))  # output -> class
    others = [f"{names[number]} as {output}" for output, number in meant.items() if number != output]
    told = f"the network gives images of {', '.join(others[:SHOWN])}{', ...' if len(others) > SHOWN else ''}"
    if len(meant) < outputs:
        return f"{told}: it has {outputs} outputs; set `classes` to the names of all, in their order"
    order = json.dumps([names[meant[output]] for output in range(outputs)], ensure_ascii=False)
    return f"{told}: it was trained with another order; set classes = {order}"
