"""Labels, preprocessing and provenance inside an ONNX file, where an application finds them without us.

Keys of `metadata_props`: `edgeprune.labels` and `edgeprune.preprocess` hold JSON, `edgeprune.provenance` too.
OpenVINO's IR keeps them in its rt_info under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import ModelProto

from edgeprune.records import Preprocess

PREFIX = "edgeprune."


def describe(labels: Sequence[str], preprocess: Preprocess, provenance: Mapping[str, str]) -> dict[str, str]:
    """What a file says about itself, as its metadata: the same inputs give the same bytes."""
    return {
        f"{PREFIX}labels": json.dumps(list(labels), ensure_ascii=False),
        f"{PREFIX}preprocess": json.dumps(asdict(preprocess)),
        f"{PREFIX}provenance": json.dumps(dict(sorted(provenance.items())), ensure_ascii=False),
    }


def write_(model: ModelProto, description: Mapping[str, str]) -> None:
    """Put a description into a network, in the place of an earlier one."""
    kept = [entry for entry in model.metadata_props if not entry.key.startswith(PREFIX)]
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in description.items()]
    del model.metadata_props[:]
    model.metadata_props.extend([*kept, *entries])


def description_of(model: ModelProto) -> dict[str, str]:
    """The description as stored."""
    return {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)}


def read_description(path: Path) -> dict[str, object]:
    """What an .onnx file says about itself: `labels`, `preprocess`, `provenance`; empty without."""
    model = onnx.load(path, load_external_data=False)
    found = description_of(model).items()
    return {key.removeprefix(PREFIX): json.loads(value) for key, value in found}
