"""What an analysis takes of memory in any case, and how many interventions fit into one run."""

from __future__ import annotations

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
KEPT_FOR_SLOPES = 2
"""Activations that a run back keeps: of each layer before and after what could work in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one analysis."""

    total_bytes: float
    """Besides what the process has by now."""
    at_once: int
    """Interventions in one run."""


def needs(  # noqa: PLR0913  # all that an analysis is made of
    program: causal.Program,
    coupling: channels.Coupling,
    images: Floats,
    shard: int,
    options: PruneOptions,
    *,
    foretells: bool = False,
) -> Needs:
    """Count it.

    Args:
        program: The dense network.
        coupling: Its channel groups.
        images: For calibration.
        shard: Images that one evaluation runs together, at most.
        options: Of the analysis.
        foretells: Whether the walk makes forecasts.
    """
    threads = torch.get_num_threads() if program.device.type == "cpu" else 1
    sizes = {group.name: group.units for group in coupling.groups}
    piece, image_bytes = program.piece_images(images[0].nbytes), images[0].nbytes
    activations = channels.Activations(coupling)
    each = activations.peak(sizes) * images.itemsize
    together = min(piece, shard)
    at_once = devices.at_once(
        options.batch_interventions,
        program.device,
        bytes_each=together * each,
        images_bytes=together * image_bytes,
    )
    fitting = 0.0
    if not options.only_zeroes:
        layers = compensate.find_layers(program).values()
        fitting = compensate.working_bytes(layers, program.dense, piece=piece, threads=threads)
    running = max(NETWORKS * piece, at_once * together) * threads * each
    if foretells:  # by running back, shard by shard
        kept = KEPT_FOR_SLOPES * activations.total(sizes) * images.itemsize
        running = max(running, kept * min(piece * threads, shard))
    return Needs(total_bytes=COPIES * images.nbytes + running + fitting, at_once=at_once)
