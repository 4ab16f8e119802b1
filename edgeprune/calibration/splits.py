"""Who goes where: three splits, no image in two of them, the same for the same images and seed.

What decides is a hash of the seed and an image's digest, never the order of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeprune.errors import DataError
from edgeprune.records import Sample, Split

ENOUGH_VALIDATION = 2_000
"""Validation images beyond which more would say little more, where calibration has no use for them."""
EVALUATION_SHARE = 0.5
"""What is set aside for evaluation where nobody says which images are for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many images each split gets."""

    per_class: int | None
    """At most, for calibration and the share of validation."""
    validation_share: float
    """Of these, in [0, 1); images beyond `per_class` go there too, until it is as large as calibration, or
    `ENOUGH_VALIDATION`."""
    evaluation_limit: int | None
    seed: int


def divide(
    pool: Sequence[Sample], evaluation: Sequence[Sample] | None, shares: Shares, *, where: str
) -> tuple[dict[Split, tuple[Sample, ...]], list[str]]:
    """Return the samples of each split, and notes on what was left out.

    Every prefix of a split is balanced over the classes. Calibration images cost an analysis its time;
    validation images are looked at far less often and decide how much may go: what calibration has no use for
    is theirs.

    Args:
        pool: Images for calibration and validation, and for evaluation too where `evaluation` is None.
        evaluation: Images for evaluation.
        where: What to name in a DataError.
    """
    notes: list[str] = []
    if evaluation is None:
        pool = _spread(_once(pool, notes), shares.seed)
        cut = _part(len(pool), EVALUATION_SHARE)
        evaluation, pool = pool[:cut], pool[cut:]
        notes.append(f"{EVALUATION_SHARE:.0%} of the images were set aside for evaluation.")
    else:
        pool = _once(_apart(pool, evaluation, notes), notes)
    kept, spare = _at_most(_spread(pool, shares.seed), shares.per_class)
    chosen = _spread(kept, shares.seed)
    cut = _part(len(chosen), shares.validation_share)
    more = spare[: max(0, len(chosen) - 2 * cut, ENOUGH_VALIDATION - cut)] if cut else []
    parts = {
        Split.CALIBRATION: tuple(chosen[cut:]),
        Split.VALIDATION: tuple(_spread(chosen[:cut] + more, shares.seed)),
        Split.EVALUATION: tuple(_spread(evaluation, shares.seed)[: shares.evaluation_limit]),
    }
    for split in (Split.CALIBRATION, Split.EVALUATION):
        if not parts[split]:
            raise DataError(
                f"{where}: no images are left for {split}; add images. {' '.join(notes)}".rstrip()
            )
    return parts, notes


def order(seed: int, *what: object) -> bytes:
    """Return a sort key that depends on nothing but the seed and `what`."""
    return hashlib.sha256(":".join(map(str, (seed, *what))).encode()).digest()


def _spread(samples: Iterable[Sample], seed: int) -> list[Sample]:
    """Order the samples such that every prefix is balanced over the classes.

    Image r of the n of a class lies at (r + u) / n, u in [0, 1) being the class's own: a share of the whole
    is that share of every class, and still holds where the classes have one image each.
    """
    by_class: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: (order(seed, sample.digest), sample.source)):
        by_class.setdefault(sample.label, []).append(sample)
    placed = []
    for label, members in by_class.items():
        start = int.from_bytes(order(seed, "class", label)[:6]) / 2**48
        placed += [((rank + start) / len(members), label, sample) for rank, sample in enumerate(members)]
    return [sample for _, _, sample in sorted(placed, key=lambda place: place[:2])]


def _at_most(samples: Iterable[Sample], per_class: int | None) -> tuple[list[Sample], list[Sample]]:
    """Return the first `per_class` samples of each class, and the others."""
    seen: dict[int, int] = {}
    kept: list[Sample] = []
    spare: list[Sample] = []
    for sample in samples:
        seen[sample.label] = seen.get(sample.label, 0) + 1
        (kept if per_class is None or seen[sample.label] <= per_class else spare).append(sample)
    return kept, spare


def _part(count: int, share: float) -> int:
    """Return how many images a share is: at least one where there are two to share."""
    return max(round(count * share), min(1, count - 1)) if share and count else 0


def _apart(pool: Sequence[Sample], evaluation: Sequence[Sample], notes: list[str]) -> list[Sample]:
    """Drop from the pool what is in evaluation."""
    taken = {sample.digest for sample in evaluation}
    apart = [sample for sample in pool if sample.digest not in taken]
    if len(apart) < len(pool):
        first = next(sample.source for sample in pool if sample.digest in taken)
        notes.append(
            f"{len(pool) - len(apart)} of {len(pool)} calibration images left out: they are also evaluation "
            f"images (the first: {first})."
        )
    return apart


def _once(pool: Sequence[Sample], notes: list[str]) -> list[Sample]:
    """Keep one of each set of equal images, and none where their labels differ."""
    copies: dict[str, list[Sample]] = {}
    for sample in sorted(pool, key=lambda sample: sample.source):
        copies.setdefault(sample.digest, []).append(sample)
    kept = [same[0] for same in copies.values() if len({sample.label for sample in same}) == 1]
    if len(copies) < len(pool):
        first = next(same for same in copies.values() if len(same) > 1)
        notes.append(
            f"{len(pool) - len(copies)} calibration images left out: copies of others "
            f"(the first: {first[1].source} of {first[0].source})."
        )
    if len(kept) < len(copies):
        torn = next(same for same in copies.values() if len({sample.label for sample in same}) > 1)
        notes.append(
            f"{len(copies) - len(kept)} calibration images left out: copies of them have different labels "
            f"(the first: {torn[0].source} and {torn[1].source})."
        )
    return kept
