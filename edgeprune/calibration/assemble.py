"""From a description or a path to a CalibrationSet."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from edgeprune.calibration.boxes import class_names_of_boxes, list_boxed
from edgeprune.calibration.description import Description, describe
from edgeprune.calibration.labels import class_names, label_numbers
from edgeprune.calibration.listing import Entry, Listing, digest_file, list_images
from edgeprune.calibration.masks import list_masked
from edgeprune.calibration.preprocess import check, flags_settings, layered
from edgeprune.calibration.splits import Shares, divide, order
from edgeprune.errors import ConfigError, DataError
from edgeprune.records import CalibrationSet, Kind, MaskCode, Preprocess, Sample, Split

MOST_PER_CLASS, LEAST_PER_CLASS, MOST_IMAGES = 60, 2, 1200
CANDIDATES = 4
"""Files read per image wanted, where a class has more: to read all 140 GB of ImageNet takes too long."""
SCALED = {"mean", "std", "scale"}
AS_THEY_ARE = (
    "Neither the network nor the data say how pixels were scaled: divided by 255 alone; "
    "if the network was trained otherwise, give `mean` and `std`."
)

log = logging.getLogger(__name__)


def load(  # noqa: PLR0913 - one argument per thing a user may say about data
    data: str,
    *,
    overrides: Mapping[str, object] | None = None,
    default: Preprocess | None = None,
    calibration_per_class: int | None = None,
    seed: int = 0,
    folders: Sequence[Path] = (),
    kind: Kind = "classes",
) -> CalibrationSet:
    """Return the images that `data` stands for, in three splits that share no image.

    Images are told apart by the digest of their files (of their pixels, in an .npz).

    Args:
        data: A .toml description, the name of one in `folders`, a folder with one sub-folder per class (or
            with `train` and `test` folders of these), a .csv of path,label, or an .npz.
        overrides: Fields of `Preprocess` that beat the description.
        default: The network's own preprocessing; the description beats it.
        calibration_per_class: Beats the description's `per_class`.
        seed: Another seed, other splits.
        folders: Where named descriptions lie, first found first taken.
        kind: What the images are labelled with.

    Raises:
        DataError: The data, or their description, are wrong or missing.
        ConfigError: An override is wrong.
    """
    if calibration_per_class is not None and calibration_per_class < 1:
        raise ConfigError(f"{calibration_per_class} calibration images per class; give 1 or more.")
    flags = flags_settings(overrides or {})
    description = describe(data, folders)
    listings = _listings(description, kind)
    shares = _shares(description, calibration_per_class, seed)
    preprocess = _preprocess(description, listings, default, flags)
    given = description.classes
    if kind == "boxes" and given is None and not any(x.classes for x in listings):
        given = class_names_of_boxes(listings)
    classes, notes = class_names(listings, given)
    if kind == "masks" and description.classes is None and not any(x.classes for x in listings):
        raise DataError(f"{description.path}: give the names of the classes as `classes` or `classes_file`.")
    _check_boxes(listings, classes, str(description.path))
    if shares.per_class is None:
        several = len(classes) if kind == "classes" else 1
        shares = replace(shares, per_class=enough_per_class(several))
    if len(listings) > 1:
        listings[0] = _thinned(listings[0], shares)
    pool, *others = [_samples(listing, classes) for listing in listings]
    samples, left_out = divide(pool, others[0] if others else None, shares, where=str(description.path))
    notes += [note for listing in listings for note in listing.notes]
    said = default is not None or SCALED & (description.preprocess.keys() | flags.keys())
    if not said and not listings[0].floats:
        notes.append(AS_THEY_ARE)
    notes += left_out + (_missing(samples, classes) if kind == "classes" else [])
    log.info("%s: %s", description.name, ", ".join(f"{len(samples[split])} {split}" for split in Split))
    return CalibrationSet(
        name=description.name,
        classes=classes,
        preprocess=preprocess,
        samples=samples,
        digest=_digest(samples, classes, preprocess, description.code),
        kind=kind,
        code=description.code,
        notes=tuple(notes),
    )


def _check_boxes(listings: Sequence[Listing], classes: Sequence[str], where: str) -> None:
    for entry in (entry for listing in listings for entry in listing.entries):
        if unknown := {box.label for box in entry.boxes} - set(classes):
            raise DataError(
                f"{where}: {entry.where} has a box of `{min(unknown)}`, which is none of the classes."
            )


def _listings(description: Description, kind: Kind) -> list[Listing]:
    """Return what the calibration source holds, and the evaluation source where there is one."""
    read = {"classes": list_images, "masks": list_masked, "values": list_masked, "boxes": list_boxed}[kind]
    listings = [read(source) for source in description.sources(kind)]
    if len({listing.floats for listing in listings}) > 1:
        raise DataError(
            f"{description.path}: one source holds floats and the other one bytes; save both in the same way."
        )
    return listings


def _shares(description: Description, per_class: int | None, seed: int) -> Shares:
    keys = description.keys
    return Shares(
        per_class=per_class or keys.calibration.per_class,
        validation_share=keys.calibration.validation_share,
        evaluation_limit=keys.evaluation.limit if keys.evaluation else None,
        seed=seed,
    )


def enough_per_class(classes: int) -> int:
    """Calibration and validation images per class where nobody says: the walk's time grows with them."""
    return min(MOST_PER_CLASS, max(LEAST_PER_CLASS, MOST_IMAGES // classes))


def _preprocess(
    description: Description,
    listings: Sequence[Listing],
    default: Preprocess | None,
    flags: Mapping[str, object],
) -> Preprocess:
    """Return the settings that hold; gray arrays stay gray, and floats unscaled, unless someone says so."""
    gray = all(listing.gray for listing in listings)
    base = default or Preprocess(color="gray" if gray else "rgb")
    merged = layered(base, description.preprocess, flags)
    if listings[0].floats and "scale" not in description.preprocess.keys() | flags.keys():
        merged = replace(merged, scale=1.0)
    check(merged, f"{description.path} [preprocess]")
    return merged


def _thinned(listing: Listing, shares: Shares) -> Listing:
    """Leave out image files that have next to no chance of being chosen, by a hash of their names."""
    if shares.per_class is None or any(entry.digest for entry in listing.entries):
        return listing
    by_label: dict[str, list[Entry]] = {}
    for entry in sorted(listing.entries, key=lambda entry: order(shares.seed, Path(entry.source).name)):
        by_label.setdefault(entry.label, []).append(entry)
    kept = [entry for same in by_label.values() for entry in same[: CANDIDATES * shares.per_class]]
    return replace(listing, entries=tuple(kept))


def _samples(listing: Listing, classes: Sequence[str]) -> list[Sample]:
    """Return the entries with label numbers and digests."""
    return [
        Sample(
            source=entry.source,
            label=label,
            digest=entry.digest or digest_file(Path(entry.source)),
            mask=entry.answer,
            boxes=entry.boxes,
            answer_digest=entry.answer_digest,
        )
        for entry, label in zip(listing.entries, label_numbers(listing.entries, classes), strict=True)
    ]


def _missing(samples: Mapping[Split, Sequence[Sample]], classes: Sequence[str]) -> list[str]:
    """Say which classes have no image in calibration or in evaluation."""
    notes = []
    for split in (Split.CALIBRATION, Split.EVALUATION):
        present = {sample.label for sample in samples[split]}
        absent = [name for label, name in enumerate(classes) if label not in present]
        if absent:
            shown = ", ".join(absent[:3]) + (", ..." if absent[3:] else "")
            notes.append(f"{len(absent)} of {len(classes)} classes have no {split} image ({shown}).")
    return notes


def _digest(
    samples: Mapping[Split, Iterable[Sample]], classes: Sequence[str], preprocess: Preprocess, code: MaskCode
) -> str:
    """Return a digest of everything that decides the inputs and labels; file names do not."""
    parts = {
        split: [(x.digest, x.label, *([x.answer_digest] if x.answer_digest else ())) for x in samples[split]]
        for split in Split
    }
    masks = [asdict(code)] if any(sample.mask for split in Split for sample in samples[split]) else []
    text = json.dumps([parts, list(classes), asdict(preprocess), *masks], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
