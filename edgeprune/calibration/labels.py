"""Class names and label numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

from edgeprune.calibration.listing import Entry, Listing
from edgeprune.errors import DataError

NUMBER = re.compile(r"-?\d{1,18}")
MOST_CLASSES = 100_000
"""A higher number is no label."""


def class_names(
    listings: Sequence[Listing], given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the classes in the order of their numbers, and notes.

    In this order: the given ones, those in an .npz, the labels that are names (sorted, as by torchvision's
    ImageFolder), "0", "1", ... up to the highest label.
    """
    held = next((listing.classes for listing in listings if listing.classes), None)
    if given or held:
        return given or held or (), []
    names = {entry.label for listing in listings if _by_name(listing) for entry in listing.entries}
    if names:
        return tuple(sorted(names)), _order_notes(names)
    numbered = [entry for listing in listings for entry in listing.entries]
    last = max(numbered, key=lambda entry: int(entry.label))
    if int(last.label) >= MOST_CLASSES:
        raise DataError(f"{last.where}: label {last.label} is no class number; labels count from 0.")
    return tuple(str(number) for number in range(int(last.label) + 1)), []


def label_numbers(entries: Sequence[Entry], classes: Sequence[str]) -> list[int]:
    """Return the class number of each entry.

    Labels are names when all of a source's labels are (a class `n01440764 tench` answers to `n01440764` as
    well), else numbers; raises a DataError for the first that is neither.
    """
    numbers = _numbers_by_name(classes)
    if all(entry.label in numbers for entry in entries):
        return [numbers[entry.label] for entry in entries]
    for entry in entries:
        if not NUMBER.fullmatch(entry.label):
            if entry.label not in numbers:
                hint = get_close_matches(entry.label, numbers, n=1)
                ask = f"did you mean `{hint[0]}`?" if hint else "check the class names."
                raise DataError(
                    f"{entry.where}: label `{entry.label}` is none of {len(classes)} classes; {ask}"
                )
        elif not 0 <= int(entry.label) < len(classes):
            raise DataError(
                f"{entry.where}: label {entry.label} is out of range: {len(classes)} classes have the labels "
                f"0 to {len(classes) - 1}."
            )
    return [numbers[x.label] if not NUMBER.fullmatch(x.label) else int(x.label) for x in entries]


def _by_name(listing: Listing) -> bool:
    """Whether the labels of a source are names rather than numbers."""
    return listing.by_folder or not all(NUMBER.fullmatch(entry.label) for entry in listing.entries)


def _numbers_by_name(classes: Sequence[str]) -> dict[str, int]:
    """Return the class number under each name and first word that belongs to one class only."""
    numbers: dict[str, int] = {}
    for keys in ([name.split()[0] for name in classes], classes):
        once = {key for key, count in Counter(keys).items() if count == 1}
        numbers |= {key: number for number, key in enumerate(keys) if key in once}
    return numbers


def _order_notes(names: set[str]) -> list[str]:
    """Say so where class folders named by numbers are not in the order of these numbers."""
    ordered = sorted(names)
    if all(NUMBER.fullmatch(name) for name in names) and ordered != sorted(names, key=int):
        shown = ", ".join(ordered[:4])
        return [f"classes are in torchvision's order of folders ({shown}, ...); give `classes` to change it."]
    return []
