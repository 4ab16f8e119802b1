"""How far two stages disagree on the same images."""

from __future__ import annotations

import numpy as np

from edgeprune.errors import ParityError
from edgeprune.records import Floats, Parity


def parity(stage: str, reference: Floats, other: Floats, *, limit: float = 1e-3) -> Parity:
    """How far two stages disagree: max |reference - other| / max |reference|.

    Args:
        stage: Who is compared, e.g. `pruned: torch -> onnx`; the reference is left of the arrow.
        reference: Scores of the same images, shape (N, ...), like `other`.

    Raises:
        ParityError: Above the limit, of different shapes, or not finite.
    """
    if reference.shape != other.shape:
        raise ParityError(
            f"{stage}: scores of shape {reference.shape} became {other.shape}; report this as a bug."
        )
    check_finite(stage, "before", reference)
    check_finite(stage, "after", other)
    largest = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    error = float(np.abs(reference - other).max()) / largest
    if error > limit:
        raise ParityError(
            f"{stage}: scores differ by {error:.2g} of the largest, over the limit of {limit:.2g}; "
            "try the other runtime, and report this as a bug."
        )
    return Parity(stage=stage, error=error, limit=limit, images=len(reference))


def check_finite(stage: str, side: str, scores: Floats) -> None:
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise ParityError(
            f"{stage}: {bad} of {scores.size} scores {side} the arrow are NaN or infinite; "
            "check the weights and the preprocessing (mean, std, scale)."
        )
