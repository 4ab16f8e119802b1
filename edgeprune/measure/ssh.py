"""The worker on a device: pushes what a job needs, runs it there, and leaves nothing behind.

Nothing of the user's reaches a remote shell: files get names made of digests, parameters go as JSON on the
worker's standard input. That stays open while it runs: when the connection or this process ends, so does the
worker. Everything lies in one private folder on the device, which is removed in the end.

A connection that cannot be made is tried again. One that breaks during a measurement is made again, and that
process is measured afresh from its beginning: fresh processes are what a measurement consists of.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgeprune.errors import EdgepruneError, InputError, ModelError, TargetError, TargetUnreachable
from edgeprune.measure import answers, worker
from edgeprune.measure.openssh import SSH_FAILED, Address, Client, ConnectionLost, connection_error, disk_full
from edgeprune.measure.worker import Answer, Job, Refused
from edgeprune.records import Floats
from edgeprune.scratch import scratch

log = logging.getLogger(__name__)

WORKER = Path(worker.__file__)
NOT_FOUND = (126, 127)
CONNECTION_TRIES = 3
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 900.0
SETUP_SECONDS = 1800.0
LOCK_SECONDS = 600.0
OLDEST_PYTHON = (3, 9)
PACKAGES = {"openvino": ("openvino", "numpy"), "onnxruntime": ("onnxruntime", "numpy")}
FOLDER = re.compile(r"(/[A-Za-z0-9._+@%-]+)*/edgeprune\.[A-Za-z0-9]{8,}")
VENV = ".cache/edgeprune/venv"
"""Below the device's home."""
RUN = ("sh", "-c", '"$0" -E "$1"; exit $?')
"""Runs Python with the worker; through a shell that stays, so that a kill has an exit code of its own."""


@dataclass(slots=True, kw_only=True)
class Device:
    """An open device; its verbs push what they need."""

    client: Client
    python: str
    parent: str = ""
    folder: str = ""
    """On the device; empty: none yet."""
    stale: list[str] = field(default_factory=list)
    """Folders of connections that broke."""
    pushed: dict[str, str] = field(default_factory=dict)
    """Name to path on the device."""
    about: dict[str, Any] = field(default_factory=dict)  # Any: what the worker describes
    notes: list[str] = field(default_factory=list)
    """What happened to the connection, for the report."""

    @property
    def host(self) -> str:
        return self.client.address.host

    # --- verbs ----------------------------------------------------------------------------------------

    def run(self, job: Job) -> Answer:
        """Do one job as `local.run` does, with the files of this machine.

        Raises:
            TargetUnreachable: The device or its runtime is missing.
            ModelError: The runtime there refuses an artifact, crashes on it or takes too long.
        """
        return cast(Answer, self.ask(job))

    def ask(self, job: Job) -> dict[str, Any]:  # Any: what a task answers is its own
        """Do a job of any task; a connection that breaks is made again, and the job done afresh."""
        for tried in range(CONNECTION_TRIES):
            try:
                return self._try(job)
            except ConnectionLost as err:
                if tried + 1 == CONNECTION_TRIES:
                    raise TargetUnreachable(f"{err}; is it on, and does `ssh {self.host}` work?") from err
                log.warning("%s; connecting again", err)
                if self.about:
                    self.notes.append(f"the connection to {self.host} broke, and was made again")
                time.sleep(PAUSE_SECONDS * 2**tried)
                self._forget_connection()
        raise AssertionError("the loop returns or raises")

    def predict(self, path: Path, images: Floats, *, runtime: str, threads: int) -> Floats:
        """Return the artifact's outputs (n, K) for images (n, C, H, W), computed on the device."""
        with scratch() as here:
            file = Path(here, "images.npy")
            np.save(file, np.ascontiguousarray(images, dtype=np.float32))
            job = worker_job("predict", runtime=runtime, threads=threads)
            answer = self.ask({**job, "artifacts": [str(path)], "image": str(file)})
            there = self.pushed.pop(f"{file_digest(file)[:32]}.npy", None)
        if there is not None:
            self.client.output(["rm", "-f", "--", there])
        values = np.frombuffer(base64.b64decode(answer["outputs"]), dtype=np.float32)
        return values.reshape(answer["shape"])

    def cpus(self, threads: int) -> list[int]:
        """Return the device's CPUs to measure on; raises InputError where it has too few."""
        found = self.ask(worker_job("describe", threads=threads))
        if threads > found["cpus"]:
            raise InputError(f"threads = {threads}, but {self.host} has {found['cpus']} CPUs; set fewer.")
        return cast("list[int]", found["chosen_cpus"])

    # --- opening --------------------------------------------------------------------------------------

    def open(self, *, runtime: str | None, setup: bool, arch: str) -> None:
        """Connect, look at the machine, and see to it that the runtime is there."""
        self.about = self.ask(worker_job("describe"))
        if tuple(self.about["python"]) < OLDEST_PYTHON:
            found = ".".join(map(str, self.about["python"]))
            raise TargetUnreachable(
                f"{self.host}: {self.python} is Python {found}, but the worker needs 3.9; "
                "name a newer one in the target's `python`."
            )
        if arch and self.about["arch"] != arch:
            raise TargetUnreachable(
                f"{self.host} is {self.about['arch']}, but the target is for {arch}; "
                "choose the target of that device, or probe it."
            )
        if runtime is not None:
            self._see_to_runtime(runtime, setup=setup)

    def _see_to_runtime(self, runtime: str, *, setup: bool) -> None:
        missing = [name for name in PACKAGES[runtime] if name not in self.about["runtimes"]]
        if not missing:
            return
        if not setup:
            raise TargetUnreachable(
                f"{self.host}: {' and '.join(missing)} missing for {self.python}; "
                f"run there: {self._install_line(runtime)}, or give --setup."
            )
        home = self.client.output(["printenv", "HOME"]).decode().strip()
        venv = f"{home}/{VENV}"
        self.client.output([self.python, "-m", "venv", venv], seconds=SETUP_SECONDS)
        self.python = f"{venv}/bin/python3"
        line = [self.python, "-m", "pip", "install", "--quiet", *PACKAGES[runtime]]
        self.client.output(line, seconds=SETUP_SECONDS)
        self.about = self.ask(worker_job("describe"))

    def _install_line(self, runtime: str) -> str:
        return shlex.join([self.python, "-m", "pip", "install", *PACKAGES.get(runtime, ())])

    # --- one job --------------------------------------------------------------------------------------

    def _try(self, job: Job) -> dict[str, Any]:  # Any: as in `ask`
        there = cast(Job, dict(job))
        there["artifacts"] = [self._push_artifact(Path(path)) for path in job["artifacts"]]
        if job["image"]:
            there["image"] = self._push(Path(job["image"]), ".npy")
        there["protocol"] = worker.PROTOCOL
        if job.get("task", "measure") == "measure":
            there["lock_seconds"] = LOCK_SECONDS
        words = [*RUN, self.python, self._push(WORKER, ".py")]
        done = self.client.run(words, json.dumps(there).encode() + b"\n", TIMEOUT_SECONDS)
        answer = answers.find(done.stdout)
        names = " and ".join(job["artifacts"]) or self.host
        if answer is None:
            raise self._failure(done, names, job["runtime"])
        if "refused" in answer:
            raise answers.refusal(
                job["runtime"],
                names,
                cast(Refused, answer),
                where=f"on {self.host}",
                install=self._install_line(job["runtime"]),
            )
        return answer

    def _failure(self, done: subprocess.CompletedProcess[bytes], names: str, runtime: str) -> EdgepruneError:
        """Say why there is no answer."""
        complaint = answers.last_words(done.stderr)
        if "No space left" in complaint:
            return disk_full(self.host)
        if done.returncode == SSH_FAILED:
            return connection_error(self.host, complaint)
        if done.returncode in NOT_FOUND:
            return TargetUnreachable(
                f"{self.host}: there is no {self.python} ({complaint}); "
                "install Python 3.9 or newer there, or name it in the target's `python`."
            )
        happened = answers.ending(done.returncode)
        return ModelError(
            f"{names}: {runtime} on {self.host}: the worker {happened}; its last words: {complaint}"
        )

    # --- files ----------------------------------------------------------------------------------------

    def _push_artifact(self, path: Path) -> str:
        weights = path.with_suffix(".bin")
        if path.suffix != ".xml" or not weights.is_file():
            return self._push(path, path.suffix)
        both = hashlib.sha256((file_digest(path) + file_digest(weights)).encode()).hexdigest()
        self._push(weights, ".bin", stem=both)
        return self._push(path, ".xml", stem=both)

    def _push(self, path: Path, suffix: str, *, stem: str = "") -> str:
        """Copy a file to the device unless it is there; gives its path there."""
        if not re.fullmatch(r"\.[a-z0-9]{1,8}", suffix):
            raise InputError(f"{path}: no network's file; give an .onnx or .xml.")
        digest = file_digest(path)
        name = f"{(stem or digest)[:32]}{suffix}"
        if name not in self.pushed:
            there = f"{self._make_folder()}/{name}"
            self.client.put(path, there)
            if suffix != ".py":
                self._try({**worker_job("verify"), "digests": {there: digest}})
            self.pushed[name] = there
        return self.pushed[name]

    def _make_folder(self) -> str:
        if not self.folder:
            where = ["-p", self.parent, "edgeprune.XXXXXXXX"] if self.parent else ["-t", "edgeprune.XXXXXXXX"]
            lines = self.client.output(["mktemp", "-d", *where]).decode(errors="replace").split()
            found = next((line for line in lines if FOLDER.fullmatch(line)), None)
            if found is None:
                raise TargetError(f"{self.host}: no folder could be made there ({' '.join(lines)[:200]}).")
            self.folder = found
        return self.folder

    # --- the end --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove what we left there, and end the connection; never raises."""
        folders = [folder for folder in (self.folder, *self.stale) if folder]
        if folders:
            try:
                self.client.output(["rm", "-rf", "--", *folders])
            except EdgepruneError as err:
                log.warning("%s: %s may be left there (%s)", self.host, ", ".join(folders), err)
        self.client.end()

    def _forget_connection(self) -> None:
        """Begin anew in a folder of its own: the device may have been started again."""
        self.client.end()
        if self.folder:
            self.stale.append(self.folder)
        self.folder = ""
        self.pushed.clear()


@contextlib.contextmanager
def connect(  # noqa: PLR0913 - the parts of a target, by keyword
    host: str,
    *,
    runtime: str | None,
    python: str = "python3",
    folder: str = "",
    arch: str = "",
    ssh_config: str = "",
    setup: bool = False,
) -> Iterator[Device]:
    """Open a device; nothing of ours is left there afterwards, but what `setup` installed.

    Args:
        host: user@device[:port], or a name of the user's ssh configuration.
        runtime: What has to be there; None: nothing but Python.
        folder: Where files go for a moment; empty: the device's folder for temporary files.
        setup: Whether to install a missing runtime in a virtual environment of our own.

    Raises:
        TargetUnreachable: The device, its Python or its runtime is not there.
    """
    address = Address.parse(host, config=ssh_config)
    with scratch() as sockets:
        client = Client(address=address, sockets=Path(sockets))
        device = Device(client=client, python=python, parent=folder)
        try:
            device.open(runtime=runtime, setup=setup, arch=arch)
            yield device
        finally:
            device.close()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file of this machine."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def worker_job(task: str, *, runtime: str = "", threads: int = 1) -> Job:
    """Return a job without artifacts."""
    return {
        "task": task,
        "artifacts": [],
        "runtime": runtime,
        "threads": threads,
        "cpus": [],
        "image": "",
        "rounds": 1,
        "max_seconds": 0.0,
    }
