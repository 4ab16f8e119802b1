"""`edgeprune targets probe`: a profile from the machine itself."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeprune.cli.app import guarded
from edgeprune.cli.machine import targets
from edgeprune.errors import ConfigError, TargetUnreachable

if TYPE_CHECKING:
    from edgeprune.records import Target

RUNTIMES = ("openvino", "onnxruntime")
"""In the order of preference."""


@targets.command("probe")
@guarded
def probe(  # noqa: PLR0913, PLR0917  # one argument for each flag
    name: Annotated[str, typer.Argument(help="Of the profile.")] = "here",
    ssh: Annotated[str | None, typer.Option(help="user@device[:port] \\[this machine].")] = None,
    python: Annotated[str, typer.Option(help="The Python on the device.")] = "python3",
    ssh_config: Annotated[str, typer.Option(help="A file for ssh -F.")] = "",
    runtime: Annotated[str | None, typer.Option(help="openvino or onnxruntime \\[what is there].")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of one inference.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the profile.")] = Path("targets"),
    force: Annotated[bool, typer.Option("--force", help="Replace a profile of that name.")] = False,
) -> None:
    """Write a target profile from a machine: CPU, memory, runtimes, and which widths pay on it.

    [dim]edgeprune targets probe pi5 --ssh pi@device[/dim]
    """
    from edgeprune import measure
    from edgeprune.errors import TargetError
    from edgeprune.records import Target
    from edgeprune.target import load

    path = out / f"{name}.toml"
    if path.exists() and not force:
        raise TargetError(f"{path}: is there already; give --force to replace it, or another name.")
    asked = Target(
        name=name,
        runtime="onnxruntime",  # until it is known what is there
        threads=threads,
        host=ssh or "",
        python=python,
        ssh_config=str(Path(ssh_config).resolve()) if ssh_config else "",
    )
    with measure.place(asked, needs_runtime=False) as place:
        about = place.about(threads)
        chosen = choose_runtime(about, runtime, ssh or "this machine")
        align, ratios = measure.step(runtime=chosen, threads=threads, **place.options())
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(profile_text(asked, chosen, about, align, ratios), encoding="utf-8")
    typer.echo(f"{path}: {about['machine']['cpu']}, {chosen}, widths in multiples of {align}")
    load(str(path), folders=())


def choose_runtime(about: dict[str, Any], wanted: str | None, where: str) -> str:
    """The one asked for, or the first that is there."""
    there = [name for name in RUNTIMES if name in about["runtimes"]]
    if wanted is not None and wanted in there:
        return wanted
    if wanted is None and there:
        return there[0]
    if wanted is not None and wanted not in RUNTIMES:
        near = difflib.get_close_matches(wanted, RUNTIMES, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"--runtime {wanted}: no such runtime; {guess}It is one of {', '.join(RUNTIMES)}.")
    missing = wanted or "onnxruntime"
    raise TargetUnreachable(f"{where}: {missing} is missing; run there: pip install {missing} numpy")


def profile_text(
    asked: Target, runtime: str, about: dict[str, Any], align: int, ratios: dict[int, float]
) -> str:
    """The .toml of a target, with what was seen as comments."""
    machine, versions = about["machine"], about["runtimes"]
    widest = max(ratios)
    seen = ", ".join(f"{width}: {ratio:.2f}" for width, ratio in sorted(ratios.items()))
    settings: dict[str, object] = {
        "runtime": runtime,
        "description": f"{machine['cpu']}, {runtime}, threads: {asked.threads}",
        "threads": asked.threads,
        "align": align,
        "arch": about["arch"],
        "memory": f"{about['memory_bytes'] // 2**20} MiB" if about["memory_bytes"] else None,
        "host": asked.host or None,
        "python": asked.python if asked.host and asked.python != "python3" else None,
        "ssh_config": asked.ssh_config or None,
    }
    lines = [
        "# Written by `edgeprune targets probe`; edit at will.",
        f"# {machine['cpu']}, {about['cpus']} CPUs, features: {machine['features']}",
        f"# {machine['kernel']}, {about['glibc']}, Python {machine['python']}",
        f"# Runtimes: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"# Time of a width over that of {widest}: {seen}",
        *(f"{key} = {json.dumps(value)}" for key, value in settings.items() if value is not None),
    ]
    return "\n".join(lines) + "\n"
