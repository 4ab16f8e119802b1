"""The Typer app, its global flags, and how errors end: one line on stderr and an exit code."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from edgeprune.errors import EdgepruneError

INTERRUPTED = 130
GLOBAL_FLAGS = ("--debug", "--verbose", "--quiet")

app = typer.Typer(
    name="edgeprune",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a pretrained vision network smaller for a CPU, without training; measure what it costs.\n\n"
    "[dim]edgeprune build --target openvino[/dim]   builds the bundled example\n\n"
    "Exit codes: 0 fits, 1 an error you can fix, 2 wrong usage, 3 over budget, 4 undecided, "
    "5 target unreachable or its runtime missing, 130 interrupted (run again to resume).",
)


class Settings:
    """Global flags of this run of the program."""

    debug = False
    quiet = False


def show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"edgeprune {version('edgeprune')}")
        raise typer.Exit


@app.callback()
def global_flags(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what each room does.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; the result only.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    Settings.debug, Settings.quiet = debug, quiet
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("edgeprune").setLevel(level)


NO_MEMORY = (
    "error: out of memory; close other programs, give --memory-limit or fewer calibration images, "
    "and run the same command again to go on where it was."
)
TORCH_ALLOCATOR = "DefaultCPUAllocator"
"""torch says by this name, in a plain RuntimeError, that it got no memory."""
NO_GPU_MEMORY = (
    "error: the GPU is out of memory; end what else runs there, give --batch-interventions 1 or fewer "
    "calibration images, or leave --device out, and run the same command again to go on where it was."
)
CUDA_ALLOCATOR = "CUDA out of memory"


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:  # any command of ours
    """End a command's errors as the table of exit codes says."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:  # passed on unread
        try:
            return command(*args, **kwargs)
        except EdgepruneError as err:
            _end(f"error: {err}", err.exit_code, err)
        except KeyboardInterrupt as err:
            _end("interrupted; run the same command again to go on where it was", INTERRUPTED, err)
        except BrokenPipeError as err:
            _end("", 1, err)
        except MemoryError as err:
            _end(NO_MEMORY, 1, err)
        except RuntimeError as err:
            if CUDA_ALLOCATOR in str(err):
                _end(NO_GPU_MEMORY, 1, err)
            if TORCH_ALLOCATOR not in str(err):
                raise
            _end(NO_MEMORY, 1, err)
        except OSError as err:
            _end(f"error: {err.filename or 'the system'}: {err.strerror or err}.", 1, err)

    return run


def _end(message: str, code: int, err: BaseException) -> None:
    if Settings.debug:
        raise err
    if message:
        typer.echo(plain(message), err=True)
    raise typer.Exit(code)


def plain(message: str) -> str:
    """One line that commands no terminal: names in it may come from files."""
    line = " ".join(message.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def interrupt(*_: object) -> NoReturn:
    """End as after Ctrl-C: what is half done is cleaned up, what is done stays."""
    raise KeyboardInterrupt


def main() -> None:
    """The `edgeprune` program. Global flags may stand anywhere on the line."""
    for asked in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(asked) is signal.SIG_DFL:  # nohup's choice stays
            signal.signal(asked, interrupt)
    # Waiting threads that spin make a walk several times slower on a machine that does other work too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    words = sys.argv[1:]
    stop = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:stop] if word in GLOBAL_FLAGS]
    rest = [word for i, word in enumerate(words) if i >= stop or word not in GLOBAL_FLAGS]
    app(args=[*flags, *rest], prog_name="edgeprune")
