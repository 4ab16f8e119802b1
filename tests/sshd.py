"""A real OpenSSH server on loopback, started by the user who runs the tests, for that user alone."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

PASSED = ("PIP_", "SSL_CERT", "REQUESTS_CA")
"""Beginnings of variables that a device needs as this machine does: where packages come from."""


@dataclass(frozen=True)
class Server:
    """A running server, and the client's configuration that reaches it by the name `device`."""

    folder: Path
    port: int
    process: psutil.Popen

    @property
    def config(self) -> str:
        return str(self.folder / "ssh_config")

    @property
    def uploads(self) -> Path:
        """Where the device's temporary files lie."""
        return self.folder / "tmp"

    def sessions(self) -> list[psutil.Process]:
        """The server's processes for connections, without what runs in them."""
        children: list[psutil.Process] = self.process.children(recursive=True)
        return [child for child in children if child.name().startswith("sshd")]

    def workers(self) -> list[psutil.Process]:
        """The Python processes that run a worker of ours on this server."""
        children: list[psutil.Process] = self.process.children(recursive=True)
        return [child for child in children if "-E" in words_of(child)[1:2]]

    def left(self) -> list[str]:
        return sorted(path.name for path in self.uploads.glob("edgeprune*"))


def words_of(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:  # it has just ended
        return []
    return words


def start(folder: Path, *, file_limit: int | None = None) -> Iterator[Server]:
    """Start a server with keys and a home of its own; `file_limit`: kibibytes of the largest upload."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd here; apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # root's server separates privileges there
    folder.chmod(0o700)
    (folder / "tmp").mkdir()
    (folder / "home").mkdir()
    for name in ("host_key", "user_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    port = free_port()
    public = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(public)}\n")
    write_configs(folder, port)
    limit = f"ulimit -f {file_limit}; " if file_limit else ""
    command = ["bash", "-c", f'{limit}exec "$0" "$@"', SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    log = (folder / "log").open("wb")
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder / "tmp")}
    process = psutil.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        wait_for(port, process, folder / "log")
        yield Server(folder=folder, port=port, process=process)
    finally:
        children = process.children(recursive=True)
        process.terminate()
        process.wait(10)
        for child in children:
            if child.is_running():
                child.kill()
        log.close()


def write_configs(folder: Path, port: int) -> None:
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    given = {**passed, "TMPDIR": folder / "tmp", "HOME": folder / "home", "PATH": os.environ["PATH"]}
    environment = " ".join(f'"{name}={value}"' for name, value in given.items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        f"PasswordAuthentication no\nSubsystem sftp internal-sftp\nSetEnv {environment}\n"
    )
    (folder / "ssh_config").write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for(port: int, process: psutil.Popen, log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")
