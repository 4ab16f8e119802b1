"""The bill of materials of a build."""

from __future__ import annotations

import hashlib
from importlib import metadata

from edgeprune.pipeline.components import components


def test_everything_that_is_needed_is_listed_with_what_was_installed():
    found = components()
    names = {name.partition(" ")[0].lower() for name in found}
    assert {"edgeprune", "torch", "numpy", "onnxruntime", "openvino"} <= names
    assert "sympy" in names, "what torch needs is needed too"
    assert names.isdisjoint({"pytest", "ruff"}), "what only an extra needs is not"
    record = metadata.distribution("numpy").read_text("RECORD") or ""
    expected = hashlib.sha256(record.encode()).hexdigest()
    assert found[f"numpy {metadata.version('numpy')}"] == expected


def test_what_is_not_installed_is_left_out():
    assert components("no-such-distribution") == {}
