"""What an analysis takes of memory in any case, and how many interventions fit into one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edgeprune import causal, channels, compensate
from edgeprune.pipeline import devices
from edgeprune.pipeline.options import PruneOptions
from edgeprune.records import Floats

COPIES = 2
"""Of the calibration images, that the walk and the least squares make."""
NETWORKS = 2
"""That run side by side, dense and current."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one analysis."""

    total_bytes: float
    """Besides what the process has by now."""
    at_once: int
    """Interventions in one run."""


def needs(
    program: causal.Program,
    coupling: channels.Coupling,
    sizes: Mapping[str, int],
    images: Floats,
    options: PruneOptions,
) -> Needs:
    """Count it.

    Args:
        program: The dense network.
        coupling: Its channel groups.
        sizes: Their widths.
        images: For calibration.
        options: Of the analysis.
    """
    threads = torch.get_num_threads() if program.device.type == "cpu" else 1
    piece = program.piece_images(images[0].nbytes)
    piece_bytes = piece * channels.Activations(coupling).peak(sizes) * images.itemsize
    at_once = devices.at_once(options.batch_interventions, program.device, piece_bytes)
    fitting = 0.0
    if not options.only_zeroes:
        layers = compensate.find_layers(program).values()
        fitting = compensate.working_bytes(layers, program.dense, piece=piece, threads=threads)
    running = max(NETWORKS, at_once) * threads * piece_bytes
    return Needs(total_bytes=COPIES * images.nbytes + running + fitting, at_once=at_once)
