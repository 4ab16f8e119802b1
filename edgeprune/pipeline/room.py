"""What a build writes, at most: so many copies of the weights here, so many there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import disk, memory
from edgeprune.pipeline.modelling import VARIANTS

if TYPE_CHECKING:
    from edgeprune.pipeline.building import Build  # which hands itself over

IN_ANY_CASE = 1e7
"""Bytes of graphs, records, pictures and reports."""
ANALYSED = 4
"""New weights of the walk, weights and traced graph of the pruned network, a file under way."""
EXPORTED = 2
"""Dense and pruned, for each file format."""
QUANTIZED = 2
"""The same in 8 bits, where every layer may have to go back to 32."""
CALIBRATED = 4
"""Of ONNX Runtime's quantization, besides what it makes."""


def check_room(build: Build, *, deployed: bool = True) -> None:
    """Announce the disk space that a build takes, and refuse in one line where it is not there.

    Args:
        build: Just begun, in its run folder.
        deployed: Whether it goes on to files for the target after the analysis.

    Raises:
        RunFolderError: as `disk.check_room`.
    """
    config, formats = build.config, 2 if build.target.runtime == "openvino" else 1
    weights = memory.total_bytes([*build.loaded.module.parameters(), *build.loaded.module.buffers()])
    exported = formats * (EXPORTED + QUANTIZED * config.int8) + len(config.forms) + bool(config.frame)
    kept = ANALYSED + exported * deployed
    temporary = max(CALIBRATED * config.int8, (VARIANTS + 1) * formats, 1 + len(config.forms))
    there = disk.file_bytes(build.folder.path)
    disk.check_room(
        {
            build.folder.path: max(kept * weights + IN_ANY_CASE - there, 0),
            Path(tempfile.gettempdir()): temporary * weights + IN_ANY_CASE,
        }
    )
