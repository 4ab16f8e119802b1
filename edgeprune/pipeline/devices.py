"""Where the analysis runs (`--device`), how much it may keep there, and how many interventions at once."""

from __future__ import annotations

import re

import torch

from edgeprune import memory
from edgeprune.errors import ConfigError

MOST_AT_ONCE = 64
"""Interventions in one run where nobody says how many: refusals rarely come in longer rows."""
SHARE = 0.5
"""Of the memory that is free on a GPU, that one run of several interventions may take."""
FULL_BYTES = 40e6
"""Of images, beyond which a GPU has enough to do: 64 of 224 x 224. More at once is no quicker, and most of
what is evaluated ahead is of no use after a removal."""


def find(name: str) -> torch.device:
    """The device of that name: `cpu`, `cuda`, `cuda:N`, or `auto` for a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    found = re.fullmatch(r"cuda(?::(\d+))?", name)
    if not found:
        raise ConfigError(f"--device {name}: no such device; write cpu, cuda, cuda:N or auto.")
    if not count:
        built = "was built without CUDA" if torch.version.cuda is None else "finds no GPU or driver"
        raise ConfigError(
            f"--device {name}: torch {torch.__version__} {built}; leave --device out to use the CPU, or "
            "install a torch with CUDA and a driver for it."
        )
    number = int(found[1] or 0)
    if number >= count:
        raise ConfigError(f"--device {name}: this machine has {count} GPUs; write cuda:{count - 1} or less.")
    return torch.device("cuda", number)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a GPU; None for anything else."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def allowance(device: torch.device, limit: int | None, needed: float) -> memory.Allowance:
    """What may be kept where the analysis runs.

    Args:
        device: That place.
        limit: Of the whole process, bytes: of the machine's memory, not of a GPU's.
        needed: Bytes that the analysis takes there in any case.

    Raises:
        ConfigError: the process will take more than its limit.
    """
    free = free_bytes(device)
    if free is None:
        return memory.allowance(limit, needed=needed)
    return memory.Allowance(max(free - needed, 0) * memory.KEPT_SHARE)


def at_once(asked: int | None, device: torch.device, *, bytes_each: float, images_bytes: float) -> int:
    """How many interventions to evaluate in one run: as asked, else one on a CPU, else as many as fit.

    Args:
        asked: None: nothing was said.
        device: Where they run.
        bytes_each: Of the values of one.
        images_bytes: Of the images that one looks at.
    """
    free = free_bytes(device)
    if asked is not None or free is None:
        return asked or 1
    return max(1, min(MOST_AT_ONCE, int(SHARE * free / bytes_each), int(FULL_BYTES / images_bytes)))
