"""`edgeprune doctor`: what is here, what would make figures unreliable, and what to do about it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.cli.app import app, guarded
from edgeprune.cli.machine import AsJson

LIBRARIES = (
    "torch", "torchvision", "onnx", "onnxscript", "onnxsim", "onnxruntime", "openvino", "numpy", "scipy",
)  # fmt: skip
EXTRAS = {"zennit": "lrp", "nncf": "int8"}
"""Library -> the extra of edgeprune that brings it."""
LEAST_MEMORY_BYTES = 2 * 10**9
LEAST_DISK_BYTES = 10**9


@app.command()
@guarded
def doctor(as_json: AsJson = False) -> None:
    """Versions, runtimes, CPU and noise: what would make figures unreliable here, and what to do about it.

    [dim]edgeprune doctor[/dim]
    """
    from edgeprune.measure import describe_machine, noise_now

    versions = {name: installed(name) for name in LIBRARIES}
    extras = {name: installed(name) for name in EXTRAS}
    machine, system, noise = describe_machine(), describe_system(Path.cwd()), noise_now()
    todo = advice(versions, machine, noise, room=free_room(Path.cwd()))
    if as_json:
        found = {"machine": machine, "system": system, "versions": shown(versions), "extras": shown(extras)}
        typer.echo(json.dumps({**found, "noise": noise, "advice": todo}, indent=1))
        return
    table = Table("", "")
    for name, value in {**machine, **system, **shown(versions)}.items():
        table.add_row(escape(name), escape(value))
    for name, found_version in extras.items():
        hint = f"not installed; optional: pip install 'edgeprune[{EXTRAS[name]}]'"
        table.add_row(escape(name), escape(found_version or hint))
    console = Console()
    console.print(table)
    for sentence in noise:
        console.print(f"[yellow]noise[/yellow]: {escape(sentence)}", soft_wrap=True, highlight=False)
    for sentence in todo:
        console.print(f"[cyan]to do[/cyan]: {escape(sentence)}", soft_wrap=True, highlight=False)
    console.print("quiet: figures taken now can be trusted" if not noise else "figures taken now will say so")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def shown(versions: Mapping[str, str | None]) -> dict[str, str]:
    return {name: found or f"missing: pip install {name}" for name, found in versions.items()}


def describe_system(folder: Path) -> dict[str, str]:
    """What else a build needs of a machine."""
    memory, disk = free_room(folder)
    return {
        "libc": " ".join(platform.libc_ver()) or "unknown",
        "memory free": f"{memory / 1e9:.1f} GB" if memory is not None else "unknown",
        "disk free": f"{disk / 1e9:.1f} GB here",
        "ssh": shutil.which("ssh") or "not installed; needed for devices",
    }


def free_room(folder: Path) -> tuple[int | None, int]:
    """Bytes of memory (None: the system does not tell) and of disk that are free."""
    try:
        memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        memory = None
    return memory, shutil.disk_usage(folder).free


def advice(
    versions: Mapping[str, str | None],
    machine: Mapping[str, str],
    noise: Sequence[str],
    *,
    room: tuple[int | None, int],
) -> list[str]:
    """What to do, the gravest first."""
    missing = [name for name, found in versions.items() if found is None]
    memory, disk = room
    found = [
        (bool(missing), f"pip install {' '.join(missing)}"),
        (
            builds_differ(versions),
            "torch and torchvision come from different places (their versions end differently): "
            "install both from the same index",
        ),
        (
            memory is not None and memory < LEAST_MEMORY_BYTES,
            "little memory is free: close programs, or give --memory-limit and fewer calibration images",
        ),
        (disk < LEAST_DISK_BYTES, "little disk is free here: make room, or give --out elsewhere"),
        (
            machine.get("governor", "unknown") not in ("performance", "unknown"),
            "hold the clock: sudo cpupower frequency-set -g performance",
        ),
        (
            machine.get("governor") == "unknown",
            "no frequency governor can be read (a virtual machine?): trust ratios more than milliseconds",
        ),
        (
            bool(noise),
            "stop other programs, or measure at a quieter time; more --processes make it surer",
        ),
    ]
    return [sentence for holds, sentence in found if holds]


def builds_differ(versions: Mapping[str, str | None]) -> bool:
    """Whether torch is, say, a CPU build (`+cpu`) and torchvision is not."""
    torch, vision = (versions.get(name) for name in ("torch", "torchvision"))
    if torch is None or vision is None:
        return False
    return torch.partition("+")[2] != vision.partition("+")[2]
