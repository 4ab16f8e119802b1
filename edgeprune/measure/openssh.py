"""The system's OpenSSH client: commands, files, and what its complaints mean.

No word of the user's reaches a remote shell unquoted, and none reaches sftp at all: files have names of ours.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import EdgepruneError, InputError, TargetError, TargetUnreachable
from edgeprune.measure import answers
from edgeprune.scratch import scratch

OPTIONS = (
    *("BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10"),
    *("ServerAliveInterval=5", "ServerAliveCountMax=3", "ControlMaster=auto", "ControlPersist=30"),
    *("ClearAllForwardings=yes", "RequestTTY=no", "LogLevel=ERROR"),
)
SSH_FAILED = 255
COPY_SECONDS = 900.0
SMALL_SECONDS = 60.0
FINAL = {
    "has changed and you have requested strict checking": "its key is another than before; "
    "if that is right, remove the old one: ssh-keygen -R {name}",
    "Host key verification failed": "its key is not known here; look at it, then add it to known_hosts: "
    "ssh-keyscan {name}, or connect once with ssh",
    "Permission denied": "it does not let us in; try `ssh {name}` until that needs no password",
    "Could not resolve hostname": "there is no such host",
    "Bad configuration option": "the ssh configuration is wrong",
}
"""What no second try will change."""


class ConnectionLost(EdgepruneError):  # noqa: N818 - says what happened
    """The connection could not be made, or broke; the caller may try again."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a device is reached; a host that could be taken for an option is refused."""

    host: str
    port: int | None
    config: str = ""

    @classmethod
    def parse(cls, text: str, *, config: str = "") -> Address:
        """Read `user@device`, `user@device:2222` or a name of the user's ssh configuration."""
        word = r"[A-Za-z0-9._][A-Za-z0-9._-]*"
        found = re.fullmatch(rf"((?:{word}@)?{word})(?::(\d+))?", text)
        if found is None:
            raise InputError(f"--host {text!r}: write user@device or user@device:port.")
        return cls(host=found[1], port=int(found[2]) if found[2] else None, config=config)

    def options(self, port_flag: str) -> list[str]:
        config = ["-F", self.config] if self.config else []
        return [*config, *([port_flag, str(self.port)] if self.port else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One shared connection to a device, made when first needed."""

    address: Address
    sockets: Path
    """A private folder for the connection's socket."""

    def run(self, words: Sequence[str], given: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
        """Run words on the device; its standard input stays open until it ends."""
        command = ["ssh", *self._options("-p"), "--", self.address.host, shlex.join(words)]
        return _call(command, given, seconds, keep_open=True)

    def output(self, words: Sequence[str], *, seconds: float = SMALL_SECONDS) -> bytes:
        """Run a small command on the device; gives its output.

        Raises:
            ConnectionLost: No connection.
            TargetUnreachable: The command fails there.
        """
        done = self.run(words, b"", seconds)
        if not done.returncode:
            return done.stdout
        complaint = answers.last_words(done.stderr)
        if done.returncode == SSH_FAILED:
            raise connection_error(self.address.host, complaint)
        if "No space left" in complaint:
            raise disk_full(self.address.host)
        raise TargetUnreachable(f"{self.address.host}: {shlex.join(words)} failed there ({complaint}).")

    def put(self, path: Path, there: str) -> None:
        """Copy a file to the device.

        Raises:
            ConnectionLost: No connection.
            TargetError: The device refuses it, or is full.
        """
        with scratch() as here:
            plain = Path(here, Path(there).name)  # a name of ours on this side too
            plain.symlink_to(path.resolve())
            command = ["sftp", "-q", "-b", "-", *self._options("-P"), "--", self.address.host]
            done = _call(command, f"put {_quoted(str(plain))} {_quoted(there)}\n".encode(), COPY_SECONDS)
        if not done.returncode:
            return
        complaint = answers.last_words(done.stderr)
        if done.returncode == SSH_FAILED or "onnection" in complaint:
            raise connection_error(self.address.host, complaint)
        if "No space" in complaint or self._left(str(Path(there).parent)) < path.stat().st_size:
            raise disk_full(self.address.host)
        raise TargetError(f"{self.address.host}: {path} could not be copied there ({complaint}).")

    def _left(self, folder: str) -> float:
        """Bytes left on a device's disk: a full one is a plain `Failure` to sftp."""
        with contextlib.suppress(EdgepruneError):
            left = re.search(rb"\s(\d+)\s+\d+%", self.output(["df", "-Pk", folder]))
            return int(left[1]) * 1024 if left else float("inf")
        return float("inf")

    def end(self) -> None:
        """End the shared connection, if there is one."""
        with contextlib.suppress(OSError, EdgepruneError):
            _call(["ssh", "-O", "exit", *self._options("-p"), "--", self.address.host], b"", 10.0)

    def _options(self, port_flag: str) -> list[str]:
        control = f"ControlPath={self.sockets}/%C"
        each = [word for option in (*OPTIONS, control) for word in ("-o", option)]
        return [*self.address.options(port_flag), *each]


def connection_error(host: str, complaint: str) -> EdgepruneError:
    """What went wrong with the connection; only what may be different the next time is ConnectionLost."""
    name = host.rpartition("@")[2]
    for words, advice in FINAL.items():
        if words in complaint:
            return TargetUnreachable(f"{host}: {advice.format(name=name)} ({complaint}).")
    return ConnectionLost(f"{host}: no connection ({complaint})")


def disk_full(host: str) -> EdgepruneError:
    return TargetError(f"{host}: the disk there is full; make room, or set the target's `folder`.")


def _quoted(name: str) -> str:
    """As a word of an sftp command."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _call(
    command: list[str], given: bytes, seconds: float, *, keep_open: bool = False
) -> subprocess.CompletedProcess[bytes]:
    """Run a program of this machine; `keep_open`: its standard input lasts until it ends, as a lease."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err) as process:  # noqa: S603 - no shell
                code = _wait(process, given, seconds, keep_open=keep_open)
        except FileNotFoundError as missing:
            raise TargetUnreachable(
                f"{command[0]} is not installed here; install OpenSSH's client."
            ) from missing
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def _wait(process: subprocess.Popen[bytes], given: bytes, seconds: float, *, keep_open: bool) -> int:
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(given)
            process.stdin.flush()
        if not keep_open:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return process.wait(seconds)
    except subprocess.TimeoutExpired as err:
        raise TargetUnreachable(f"no answer within {seconds:g} s; is the device hanging?") from err
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):  # what it did not read is flushed again
            process.stdin.close()
