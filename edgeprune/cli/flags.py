"""Flags that several commands share, and how they become settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgeprune.config import BuildConfig

INPUT, SEARCH, LIMITS, IMAGES, OUTPUT = (
    "Network, images, target",
    "Analysis",
    "Limits",
    "Preprocessing",
    "Output",
)


def known_targets() -> list[tuple[str, str]]:
    """Names and descriptions, for a shell that completes; a broken profile completes nothing."""
    from edgeprune.data_files import data_folder
    from edgeprune.errors import EdgepruneError
    from edgeprune.target import available

    try:
        found = available((Path("targets"), data_folder("targets")))
    except EdgepruneError:
        return []
    return [(target.name, target.description) for target in found]


def known_methods() -> list[str]:
    from edgeprune.config import METHODS

    return list(METHODS)


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file; flags win over it.", rich_help_panel=INPUT),
]
Model = Annotated[str | None, typer.Option(help="As of `build`.", rich_help_panel=INPUT)]
Weights = Annotated[str | None, typer.Option(help="As of `build`.", rich_help_panel=INPUT)]
Data = Annotated[str | None, typer.Option(help="As of `build`.", rich_help_panel=INPUT)]
Task = Annotated[
    str | None,
    typer.Option(
        help="classification, segmentation, detection or python:FILE.py:NAME.", rich_help_panel=INPUT
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Whose width step is kept \\[openvino].",
        rich_help_panel=INPUT,
        autocompletion=known_targets,
    ),
]
SamplesPerClass = Annotated[
    int | None, typer.Option(help="Calibration images per class.", rich_help_panel=SEARCH)
]
Alpha = Annotated[float | None, typer.Option(help="Level of the causal test [0.05].", rich_help_panel=SEARCH)]
Device = Annotated[
    str | None,
    typer.Option(
        help="Of the analysis: cpu, cuda, cuda:N, or auto: a GPU if any \\[cpu].", rich_help_panel=SEARCH
    ),
]
BatchInterventions = Annotated[
    int | None,
    typer.Option(
        help="Of c-swap, evaluated in one run \\[1; on a GPU as many as fit].", rich_help_panel=SEARCH
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(help="Of the analysis, like 8GB \\[half of the machine's].", rich_help_panel=SEARCH),
]
Align = Annotated[
    int | None, typer.Option(help="Widths are multiples of this \\[the target's].", rich_help_panel=SEARCH)
]
Seed = Annotated[int | None, typer.Option(help="Another seed, other splits [0].", rich_help_panel=SEARCH)]
HeadWidth = Annotated[
    bool | None,
    typer.Option(
        help="Cut attention heads in width, all of a layer by as much, instead of whole.",
        rich_help_panel=SEARCH,
    ),
]
Rules = Annotated[
    str | None,
    typer.Option(
        help="FILE.py with RULES, or python:module:NAME: your coupling rules, for ops without one; runs it.",
        rich_help_panel=SEARCH,
    ),
]
Allocation = Annotated[
    str | None,
    typer.Option(help="Of a criterion: global or uniform over layers \\[global].", rich_help_panel=SEARCH),
]
MaxLatency = Annotated[str | None, typer.Option(help="Like 12ms.", rich_help_panel=LIMITS)]
Speedup = Annotated[
    float | None,
    typer.Option(help="Find a network so many times as fast as the dense one.", rich_help_panel=LIMITS),
]
MaxMacs = Annotated[str | None, typer.Option(help="Multiply-adds, like 900M.", rich_help_panel=LIMITS)]
MaxMemory = Annotated[str | None, typer.Option(help="Peak memory, like 120MB.", rich_help_panel=LIMITS)]
MaxSize = Annotated[str | None, typer.Option(help="Of the file, like 5MB.", rich_help_panel=LIMITS)]
MaxAccuracyDrop = Annotated[
    float | None, typer.Option(help="Lose at most this many points of accuracy.", rich_help_panel=LIMITS)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.", rich_help_panel=OUTPUT)]


def share(settings: BuildConfig) -> None:
    """Where `torchrun` started several processes: all but the first take part in its walk, and end here."""
    if "WORLD_SIZE" in os.environ:
        from edgeprune.pipeline.following import serve

        if serve(settings):
            raise typer.Exit(0)


def settings(flags: Mapping[str, object], config: Path | None) -> BuildConfig:
    """Flags and the settings file, as `build` reads them."""
    from edgeprune.config import make_config

    return make_config(flags, file=config)
