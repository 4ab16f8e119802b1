"""Name or file -> trained nn.Module. `load` is the room's verb; `torchvision_data` converts images for it.

What runs while a network loads: `python:` imports and calls the user's own code, and a .pt2 archive may hold
pickles, which run code too: load only archives you trust. Weights files never run code.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from edgeprune.errors import ModelError
from edgeprune.records import Preprocess
from edgeprune.zoo.boxes import Finish, decoding, detecting, has_second_stage
from edgeprune.zoo.datasets import torchvision_data
from edgeprune.zoo.sources import Source, find_function, find_object, find_source, task_of
from edgeprune.zoo.weights import State, fit_, head_classes, matched, read_state

__all__ = [
    "Finish",
    "Loaded",
    "decoding",
    "detecting",
    "find_function",
    "find_object",
    "has_second_stage",
    "load",
    "task_of",
    "torchvision_data",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """A trained network, ready to be traced: in evaluation mode, float32, on the CPU, without gradients."""

    module: nn.Module
    description: str
    """For reports: the network, its size, its file of weights without the folder."""
    digest: str
    """SHA-256 of the state dict: names, shapes, types and bytes. It does not cover the module's code."""
    preprocess: Preprocess | None
    """What the weights were trained with, where that is known."""
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def load(model: str, *, weights: str | None = None, num_classes: int | None = None) -> Loaded:
    """A trained network from its name or file.

    Args:
        model: `torchvision:NAME` (or the name alone), `python:package.module:factory`,
            `python:path/to/file.py:factory`, `example:digits`, or the path of a .pt2 exported program.
            A factory is called without arguments, or with `num_classes` where it has that argument and
            the number is known.
        weights: A state dict as .safetensors or torch file; for torchvision also `DEFAULT` or another
            member of the network's weights enum, which is downloaded.
        num_classes: Outputs of the head; without it the weights say.

    Raises:
        ModelError: unknown network, weights that are missing, damaged, not finite or do not fit.
    """
    source = find_source(model, weights)
    if num_classes is not None and not source.takes_classes:
        raise ModelError(f"{source.name}: the number of classes is fixed; leave out num_classes.")
    if source.weights is None:
        module = source.build(num_classes)
    else:
        source, module = _trained(source, source.weights, num_classes)
    return _finish(source, module)


def _trained(source: Source, path: Path, num_classes: int | None) -> tuple[Source, nn.Module]:
    state = read_state(path)
    module = source.build(num_classes)
    state = matched(state, module)
    found = head_classes(module, state)
    if num_classes is None and source.takes_classes and found is not None:
        module = source.build(found)
        source = replace(
            source, notes=(*source.notes, f"{path.name}: the head was built for {found} classes")
        )
    fit_(module, state, source.name, path)
    return source, module


def _finish(source: Source, module: nn.Module) -> Loaded:
    module = module.cpu().float().eval().requires_grad_(requires_grad=False)
    state: State = module.state_dict()
    _check_finite(source, module, state)
    params = sum(parameter.numel() for parameter in module.parameters())
    weights = f", weights {source.weights.name}" if source.weights else ""
    description = f"{source.name}, {params:,} parameters{weights}"
    log.info("%s", description)
    return Loaded(
        module=module,
        description=description,
        digest=_digest(state),
        preprocess=source.preprocess,
        classes=source.classes,
        notes=source.notes,
    )


def _check_finite(source: Source, module: nn.Module, state: State) -> None:
    """A buffer may hold -inf (attention masks do); nothing else may hold NaN or infinities."""
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in state.items():
        broken = ~tensor.isfinite() if name in parameters else tensor.isnan() | tensor.isposinf()
        if broken.any():
            raise ModelError(
                f"{source.weights or source.name}: {name} holds {int(broken.sum())} values that are NaN or "
                "infinite; export the weights again from a checkpoint that works."
            )


def _digest(state: State) -> str:
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
