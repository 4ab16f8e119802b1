"""calibration/*.toml, and what a plain path stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from edgeprune.calibration.arrays import ROLES, Purpose, read_npz, role
from edgeprune.calibration.listing import Source, sub_folders
from edgeprune.calibration.preprocess import settings
from edgeprune.errors import DataError
from edgeprune.records import Kind, MaskCode
from edgeprune.untrusted import SETTINGS_BYTES, read_bytes, read_toml

CLOSED = pydantic.ConfigDict(extra="forbid")
SUFFIXES = (".toml", ".csv", ".npz")


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class CalibrationPart:
    """[calibration]: images for calibration and validation."""

    source: str
    images: str | None = None
    labels: str | None = None
    masks: str | None = None
    boxes: str | None = None
    per_class: Annotated[int, Field(ge=1)] | None = None
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.2


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class EvaluationPart:
    """[evaluation]: images for the report."""

    source: str
    images: str | None = None
    labels: str | None = None
    masks: str | None = None
    boxes: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, kw_only=True, config=CLOSED)
class Keys:
    """The keys of a description."""

    calibration: CalibrationPart
    evaluation: EvaluationPart | None = None
    name: str | None = None
    classes: list[str] | None = None
    classes_file: str | None = None
    ignore: list[int] = field(default_factory=lambda: [255])
    colors: list[tuple[int, int, int]] | None = None
    preprocess: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Description:
    """A data set: where it lies and how to read it."""

    path: Path
    """The description, or the plain path that stands for one; named in errors."""
    name: str
    keys: Keys
    classes: tuple[str, ...] | None
    preprocess: dict[str, object]
    """Checked fields of `Preprocess`, as far as given."""

    @property
    def code(self) -> MaskCode:
        return MaskCode(ignore=tuple(self.keys.ignore), colors=tuple(self.keys.colors or ()))

    def sources(self, kind: Kind) -> list[Source]:
        """Return where the images lie: for calibration, then for evaluation if given."""
        folder = self.path.parent if self.path.suffix.lower() == ".toml" else Path()
        parts: list[tuple[Purpose, CalibrationPart | EvaluationPart | None]] = [
            ("calibration", self.keys.calibration),
            ("evaluation", self.keys.evaluation),
        ]
        sources = [
            Source(
                path=folder / part.source,
                purpose=purpose,
                images=part.images,
                labels=part.labels,
                kind=kind,
                answers=_answers(part, folder),
            )
            for purpose, part in parts
            if part is not None
        ]
        for source in sources:
            if source.answers is not None and not source.answers.exists():
                raise DataError(
                    f"{self.path}: no masks or boxes at {source.answers}; paths are as seen from the "
                    "folder of the description."
                )
            if not source.path.exists():
                raise DataError(
                    f"{self.path}: no {source.purpose} images at {source.path}; set `source` to a folder, "
                    "a .csv or an .npz, as seen from the folder of the description."
                )
        return sources


def _answers(part: CalibrationPart | EvaluationPart, folder: Path) -> Path | None:
    given = part.masks or part.boxes
    return folder / given if given else None


def describe(data: str, folders: Sequence[Path]) -> Description:
    """Return what `data` stands for: a path, or the name of a .toml in `folders`."""
    path = Path(data)
    if data and path.is_dir():
        return _plain(path, _folder_keys(path))
    if not data or not path.exists():
        path = _find(data, folders)
    match path.suffix.lower():
        case ".toml":
            return _read(path)
        case ".csv":
            return _plain(path, Keys(calibration=CalibrationPart(source=str(path))))
        case ".npz":
            return _plain(path, _npz_keys(path))
    raise DataError(f"{path}: give a folder of images, a .csv, an .npz or a .toml description.")


def _find(name: str, folders: Sequence[Path]) -> Path:
    """Return the first `name`.toml in the folders."""
    if "/" in name or "\\" in name or name.lower().endswith(SUFFIXES):
        raise DataError(f"{name}: no such file or folder; check the path of the data.")
    for folder in folders:
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.toml")})
    hint = get_close_matches(name, known, n=1)
    ask = f"did you mean {hint[0]}?" if hint else f"known data sets: {', '.join(known) or 'none'}."
    raise DataError(f"{name}: neither a data set nor a file or folder; {ask}")


def _plain(path: Path, keys: Keys) -> Description:
    return Description(path=path, name=path.resolve().stem, keys=keys, classes=None, preprocess={})


def _folder_keys(path: Path) -> Keys:
    """A folder of class folders, or `train` (and `test`, else `val`) with class folders in each."""
    names = {child.name.lower(): child for child in sub_folders(path)}
    found = {
        purpose: next((names[word] for word in words if word in names), None)
        for purpose, words in ROLES.items()
    }
    calibration, evaluation = found["calibration"], found["evaluation"]
    known = {word for words in ROLES.values() for word in words}
    if calibration is None or not sub_folders(calibration) or not names.keys() <= known:
        return Keys(calibration=CalibrationPart(source=str(path)))
    return Keys(
        calibration=CalibrationPart(source=str(calibration)),
        evaluation=EvaluationPart(source=str(evaluation)) if evaluation else None,
    )


def _npz_keys(path: Path) -> Keys:
    """Arrays for calibration, and for evaluation where some are named so."""
    roles = {role(name) for name, array in read_npz(path).items() if array.ndim > 1}
    evaluation = EvaluationPart(source=str(path))
    both = len(roles) > 1 and not roles.isdisjoint(ROLES["evaluation"])
    return Keys(calibration=CalibrationPart(source=str(path)), evaluation=evaluation if both else None)


def _read(path: Path) -> Description:
    try:
        raw = read_toml(path)
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: cannot be read as TOML ({err}).") from err
    try:
        keys = pydantic.TypeAdapter(Keys).validate_python(raw)
    except pydantic.ValidationError as err:
        raise DataError(f"{path}: {_problem(err)}") from err
    for part in (keys.calibration, keys.evaluation):
        if part is not None and (part.images is None) != (part.labels is None):
            raise DataError(
                f"{path}: give both `images` and `labels`, or neither, to name arrays of an .npz."
            )
    return Description(
        path=path,
        name=keys.name or path.stem,
        keys=keys,
        classes=_classes(path, keys),
        preprocess=settings(keys.preprocess, f"{path} [preprocess]"),
    )


def _problem(err: pydantic.ValidationError) -> str:
    """Return the first problem with its key, and the key that may have been meant."""
    first = err.errors()[0]
    *parents, last = [str(part) for part in first["loc"]]
    key = ".".join((*parents, last))
    match first["type"]:
        case "unexpected_keyword_argument":
            part = {"calibration": CalibrationPart, "evaluation": EvaluationPart}
            known = [field.name for field in fields(part.get(parents[0], Keys) if parents else Keys)]
            hint = get_close_matches(last, known, n=1) or [", ".join(known)]
            return f"unknown key `{key}`; did you mean: {hint[0]}?"
        case "dataclass_type":
            return f"`{key}` is a table: write [{key}] with its keys below it."
        case "missing":
            return f"`{key}` is missing."
    return f"{key} = {first['input']!r}: {first['msg']}."


def _classes(path: Path, keys: Keys) -> tuple[str, ...] | None:
    """Return the class names that a description gives."""
    if keys.classes is not None and keys.classes_file is not None:
        raise DataError(f"{path}: give `classes` or `classes_file`, not both.")
    names = keys.classes
    if keys.classes_file is not None:
        file = path.parent / keys.classes_file
        try:
            text = read_bytes(file, most=SETTINGS_BYTES).decode("utf-8")
            names = [line.strip() for line in text.rstrip().splitlines()]
        except (OSError, ValueError) as err:
            raise DataError(f"{path}: classes_file {file} cannot be read ({err}).") from err
    if names is not None and not (names and all(name.strip() for name in names)):
        raise DataError(f"{path}: the class names are empty, or one of them is; give one name per class.")
    return tuple(names) if names is not None else None
