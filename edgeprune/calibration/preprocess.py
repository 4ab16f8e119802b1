"""Whose preprocessing settings win: flags over the description over the network's own transforms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches

import pydantic

from edgeprune.errors import ConfigError, DataError
from edgeprune.records import Preprocess

TOGETHER = (("resize", "crop"), ("scale", "mean", "std"))
"""Settings that only mean something together: a description that gives one of them gives them all."""

LARGEST_SIDE = 10_000
"""Pixels: more is a slip of the pen."""


def settings(raw: Mapping[str, object], where: str) -> dict[str, object]:
    """Return the given settings, checked and in the types of `Preprocess`.

    Args:
        raw: A part of the fields of `Preprocess`; `crop = 224` stands for a square, `[]` for none.
        where: What to name in a DataError, e.g. `data.toml [preprocess]`.
    """
    known = [field.name for field in fields(Preprocess)]
    for key in raw:
        if key not in known:
            hint = get_close_matches(key, known, n=1) or [", ".join(known)]
            raise DataError(f"{where}: unknown key `{key}`; did you mean: {hint[0]}?")
    try:
        checked = pydantic.TypeAdapter(Preprocess).validate_python(
            {key: _spread(key, value) for key, value in raw.items()}
        )
    except pydantic.ValidationError as err:
        first = err.errors()[0]
        key = str(first["loc"][0])
        raise DataError(f"{where}: {key} = {raw[key]!r}: {first['msg']}.") from err
    return {key: getattr(checked, key) for key in raw}


def layered(default: Preprocess, described: Mapping[str, object], flags: Mapping[str, object]) -> Preprocess:
    """Return `default` with the described settings over it, and the flags over these.

    A description that gives one setting of a group in TOGETHER starts that group afresh: `crop` alone means
    no resize, whatever the network's own transforms do. Flags change single settings.
    """
    afresh = [key for group in TOGETHER if described.keys() & set(group) for key in group]
    unset = Preprocess()
    values = {key: getattr(unset, key) for key in afresh} | {**described, **flags}
    return replace(default, **values)


def check(preprocess: Preprocess, where: str) -> None:
    """Raise a DataError that starts with `where` for settings that cannot be applied."""
    channels = channels_of(preprocess)
    for key, numbers in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(numbers) not in (1, channels):
            raise DataError(
                f"{where}: {key} has {len(numbers)} values, but color = {preprocess.color} gives "
                f"{channels} channels; give 1 or {channels}."
            )
    if not all(math.isfinite(x) for x in (preprocess.scale, *preprocess.mean, *preprocess.std)):
        raise DataError(f"{where}: scale, mean and std must be finite numbers.")
    if preprocess.scale == 0 or 0 in preprocess.std:
        raise DataError(f"{where}: scale and std must not be 0; every image would come out the same.")
    _check_size(where, "resize", preprocess.resize, lengths=(1, 2))
    _check_size(where, "crop", preprocess.crop, lengths=(2,))


def flags_settings(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the settings given as flags, checked; raises ConfigError."""
    try:
        return settings(raw, "preprocess flags")
    except DataError as err:
        raise ConfigError(str(err)) from err


def channels_of(preprocess: Preprocess) -> int:
    """Channels of the network input."""
    return 1 if preprocess.color == "gray" else 3


def _spread(key: str, value: object) -> object:
    """Return the long form of a short one: 224 for [224, 224], 0.5 for [0.5], [] for None."""
    if key in ("resize", "crop") and value == []:
        return None
    if key == "crop" and isinstance(value, list | tuple) and len(value) == 1:
        return (*value, *value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        match key:
            case "crop":
                return (value, value)
            case "resize" | "mean" | "std":
                return (value,)
    return value


def _check_size(where: str, key: str, size: tuple[int, ...] | None, *, lengths: tuple[int, ...]) -> None:
    if size is None:
        return
    if len(size) not in lengths or not all(1 <= side <= LARGEST_SIDE for side in size):
        raise DataError(
            f"{where}: {key} = {list(size)}; give [height, width] in pixels, 1 to {LARGEST_SIDE}"
            + (", or [shorter side]." if 1 in lengths else ".")
        )
