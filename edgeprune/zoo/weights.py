"""File -> state dict, and state dict -> module. No weights file runs code here."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeprune.errors import ModelError

State = Mapping[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict inside a checkpoint."""
PREFIX = r"(?:module|_orig_mod|model)\."
"""What nn.DataParallel, torch.compile and Lightning put before every name."""
MOST_PREFIXES = 3
COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps; evaluation does not read it and old files do not have it."""
SHOWN = 3
"""Entries of each kind that a message names."""


def read_state(path: Path) -> State:
    """The state dict in a .safetensors or torch file, out of its wrapper.

    Raises:
        ModelError: the file is missing, damaged, runs code when loaded, or holds something else.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; check the path.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrapped(content)
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path}: holds no state dict; save the network's state_dict().")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path}: entry {name!r} is of type {type(value).__name__}, not a tensor; "
                "save the network's state_dict() alone."
            )
    return state


def matched(state: State, module: nn.Module) -> State:
    """The state under the module's own names: as few prefixes off as make the most names fit."""
    wanted = module.state_dict().keys()
    candidates = [_without_prefixes(state, most) for most in range(MOST_PREFIXES + 1)]
    unmerged = [candidate for candidate in candidates if len(candidate) == len(state)]
    return max(unmerged, key=lambda candidate: len(wanted & candidate.keys()))


def head_classes(module: nn.Module, state: State) -> int | None:
    """Classes in the weights, if the module's last linear or convolution has another number of outputs."""
    layers = [
        (f"{name}.weight".removeprefix("."), layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    if not layers:
        return None
    name, head = layers[-1]
    found = state.get(name)
    if found is None or found.shape == head.weight.shape or found.shape[1:] != head.weight.shape[1:]:
        return None
    return len(found)


def fit_(module: nn.Module, state: State, name: str, path: Path) -> None:
    """Copy the state into the module, every entry of both.

    Raises:
        ModelError: entries are missing, unexpected or of another shape; the message counts and names them.
    """
    wanted = module.state_dict()
    complaints = list(_complaints(wanted, state))
    if complaints:
        raise ModelError(
            f"{path} does not fit {name}: {'; '.join(complaints)}. "
            "Check the network's name and number of classes, or give the weights of this very network."
        )
    module.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as err:
        raise ModelError(f"{path}: not a readable safetensors file ({err}); copy it again.") from err


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # About pickle protocols and TorchScript: what matters of them comes as an error.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise ModelError(
            f"{path}: refused: it is no plain state dict, and loading it could run code; save the "
            "network's state_dict() as .safetensors."
        ) from err
    except Exception as err:  # damaged bytes raise whatever they meet first
        if "TorchScript" in str(err):
            raise ModelError(
                f"{path}: refused: it is a TorchScript program; save its state_dict() as .safetensors."
            ) from err
        raise ModelError(f"{path}: not a readable weights file, or cut short; copy it again.") from err


def _unwrapped(content: object) -> object:
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _without_prefixes(state: State, most: int) -> State:
    leading = re.compile(f"^(?:{PREFIX}){{0,{most}}}")
    return {leading.sub("", name): tensor for name, tensor in state.items()}


def _complaints(wanted: State, state: State) -> Iterator[str]:
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in wanted and not name.endswith(COUNTER)]
    differing = [
        f"{name} is {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the network"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing:
        yield f"{len(missing)} of {len(wanted)} entries missing: {_first(missing)}"
    if unexpected:
        yield f"{len(unexpected)} unexpected: {_first(unexpected)}"
    if differing:
        yield f"{len(differing)} of another shape: {_first(differing)}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
