"""How far two stages disagree on the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeprune.errors import ParityError
from edgeprune.records import Floats, Parity


def parity(
    stage: str,
    reference: Floats,
    other: Floats,
    *,
    limit: float = 1e-3,
    exact: Callable[[], Floats | None] = lambda: None,
) -> Parity:
    """How far two stages disagree: max |reference - other| / max |reference|.

    Args:
        stage: Who is compared, e.g. `pruned: torch -> onnx`; the reference is left of the arrow.
        reference: Scores of the same images, shape (N, ...), like `other`.
        exact: The reference in double precision, asked for above the limit: where single precision alone
            moves the scores that far, the network is at fault and not the export.

    Raises:
        ParityError: Above the limit, of different shapes, or not finite.
    """
    if reference.shape != other.shape:
        raise ParityError(
            f"{stage}: scores of shape {reference.shape} became {other.shape}; report this as a bug."
        )
    check_finite(stage, "before", reference)
    check_finite(stage, "after", other)
    error = _error(reference, other)
    if error > limit:
        told = f"{stage}: scores differ by {error:.2g} of the largest, over the limit of {limit:.2g}; "
        doubles = exact()
        own = 0.0 if doubles is None else _error(reference, doubles)
        if own > limit:
            raise ParityError(
                f"{told}rounding alone does that to this network, whose scores in 32 and 64 bits differ by "
                f"{own:.2g}: check its normalisation statistics and the scale of its weights."
            )
        raise ParityError(f"{told}try the other runtime, and report this as a bug.")
    return Parity(stage=stage, error=error, limit=limit, images=len(reference))


def _error(reference: Floats, other: Floats) -> float:
    """The largest difference as a share of the largest score."""
    largest = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(reference - other).max()) / largest


def check_finite(stage: str, side: str, scores: Floats) -> None:
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise ParityError(
            f"{stage}: {bad} of {scores.size} scores {side} the arrow are NaN or infinite; "
            "check the weights and the preprocessing (mean, std, scale)."
        )
