"""What a worker wrote, wherever it ran: the line that holds the answer, and errors in words."""

from __future__ import annotations

from typing import Any

from edgeprune.errors import EdgepruneError, InputError, ModelError, TargetUnreachable
from edgeprune.measure import worker
from edgeprune.measure.worker import Refused
from edgeprune.untrusted import parse_json

STDERR_LINES = 5
ILLEGAL_INSTRUCTION, KILLED, SHELL_SIGNALS = 4, 9, 128


# Any: what a task answers is its own.
def find(output: bytes) -> dict[str, Any] | None:
    """Return the answer or refusal among other lines, None where there is none (or half of one)."""
    for line in output.decode(errors="replace").split("\n"):
        if line.startswith(worker.MARK):
            try:
                found = parse_json(line.removeprefix(worker.MARK).encode())
            except ValueError:
                return None
            return found if isinstance(found, dict) else None
    return None


def refusal(
    runtime: str, names: str, answer: Refused, *, where: str = "here", install: str = ""
) -> EdgepruneError:
    """Say why there is no answer, and what to do.

    Args:
        where: `here`, or the device.
        install: The command that installs the runtime there.
    """
    detail = answer["detail"]
    match answer["refused"]:
        case "runtime":
            command = install or f"pip install {runtime}"
            return TargetUnreachable(f"{runtime} cannot be imported {where} ({detail}); run: {command}")
        case "threads":
            return InputError(f"{detail}; set fewer threads.")
        case "busy":
            return TargetUnreachable(f"{where}: {detail}; try again later.")
        case "file" | "protocol":
            return TargetUnreachable(f"{where}: {detail}; try again.")
        case _:
            return ModelError(f"{names}: {runtime} cannot run it ({detail}); export the network again.")


def ending(exit_code: int) -> str:
    """Say how a worker ended that left no answer."""
    signal = -exit_code if exit_code < 0 else exit_code - SHELL_SIGNALS
    if signal == ILLEGAL_INSTRUCTION:
        return "met an instruction that this CPU does not have: its wheel is for a newer one"
    if signal == KILLED:
        return "was ended by signal 9 (out of memory?)"
    if exit_code < 0 or signal > 0:
        return f"was ended by signal {signal}"
    return f"ended with exit code {exit_code}"


def last_words(stderr: bytes) -> str:
    """Return the end of a complaint on one line."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    return " | ".join(line.strip() for line in lines[-STDERR_LINES:]) or "none"
