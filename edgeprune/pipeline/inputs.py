"""Configuration -> target and network: what a build needs before it opens its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from edgeprune import channels, measure, target, zoo
from edgeprune.config import EXAMPLE, EXAMPLES, BuildConfig
from edgeprune.data_files import data_folder
from edgeprune.errors import ConfigError
from edgeprune.example import write_scenes, write_shapes
from edgeprune.pipeline import devices
from edgeprune.pipeline.digests import digest
from edgeprune.pipeline.own_rules import read_rules
from edgeprune.records import Target

EXAMPLE_DATA = "digits"
RENDERED = {f"{EXAMPLES}scenes": write_scenes, f"{EXAMPLES}shapes": write_shapes}
TORCHVISION = "torchvision:"
STEP, WIDE_STEP = 8, 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What a build can know before it opens its folder."""

    config: BuildConfig
    target: Target
    loaded: zoo.Loaded
    rules: channels.Rules
    """Coupling rules of the user's own."""
    started: str

    @classmethod
    def load(cls, config: BuildConfig) -> Self:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        devices.find(config.device)
        profile = target.load(config.target, folders=(Path("targets"), data_folder("targets")))
        chosen = replace(
            profile,
            threads=config.threads or profile.threads,
            host=profile.host if config.host is None else config.host,
        )
        chosen = replace(chosen, align=config.align or chosen.align or cpu_step(chosen))
        loaded = zoo.load(config.model, weights=config.weights)
        if config.data is None and not config.model.startswith(EXAMPLES):
            raise ConfigError(
                f"model {config.model}: no data; "
                "give --data FOLDER (one sub-folder per class), a .csv, an .npz or a .toml."
            )
        rules = read_rules(config.rules)
        return cls(config=config, target=chosen, loaded=loaded, rules=rules, started=started)


def _rendered(model: str, folder: Path) -> Path:
    """A rendered example's images and their description, in the run folder."""
    name = model.removeprefix(EXAMPLES)
    place = folder / "data" / f"{name}.toml"
    if not place.is_file():
        RENDERED[model](place.with_suffix(".npz"))
        place.write_bytes((data_folder("calibration") / name / "run.toml").read_bytes())
    return place


def cpu_step(profile: Target) -> int:
    """Channels that the kernels of a target's runtime work on: 16 for ONNX Runtime with AVX-512, else 8.

    Between its blocks of 16 a convolution costs as much as with the whole one, and where branches are joined
    (SqueezeNet, DenseNet) the blocked layout is left and entered again: slower than no pruning at all. Of a
    device nothing is known before it is reached.
    """
    wide = profile.runtime == "onnxruntime" and not profile.host
    return WIDE_STEP if wide and "avx512f" in measure.describe_machine()["features"].split() else STEP


def data_source(config: BuildConfig, folder: Path) -> str:
    """The data to use: the example brings its own, a torchvision data set is written as arrays first."""
    if config.data is None:
        return EXAMPLE_DATA if config.model == EXAMPLE else str(_rendered(config.model, folder))
    if not config.data.startswith(TORCHVISION):
        return config.data
    name, _, root = config.data.removeprefix(TORCHVISION).partition(":")
    place = folder / "data" / f"{name}-{digest({'root': str(Path(root).resolve())})[:12]}.npz"
    return str(place if place.exists() else zoo.torchvision_data(name, Path(root), place))
