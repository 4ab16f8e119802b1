"""Where a target's artifacts are measured: on this machine, or on a device over SSH. One verb for both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeprune.measure import local, ssh, worker
from edgeprune.measure.measuring import measure
from edgeprune.measure.ssh import Device
from edgeprune.records import Floats, Measurement, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An open place."""

    target: Target
    device: Device | None

    def measure(self, artifacts: Mapping[str, Path], *, image: Floats, **options: Any) -> Measurement:
        """As `measure.measure`, with the target's runtime and threads, on its machine."""
        # Any: the keywords of `measure`
        target = self.target
        found = measure(
            artifacts,
            runtime=target.runtime,
            threads=target.threads,
            image=image,
            **self.options(),
            **options,
        )
        return self.noted(found)

    def options(self) -> dict[str, Any]:  # Any: keywords of `measure`
        """Return what makes `measure.measure` measure here."""
        if self.device is None:
            return {}
        return {"cpus": self.device.cpus(self.target.threads), "run_job": self.device.run}

    def noted(self, found: Measurement) -> Measurement:
        """Return a measurement with what happened to the connection meanwhile."""
        notes = dict.fromkeys(self.device.notes) if self.device else ()
        return replace(found, noise=(*found.noise, *notes))

    def predictor(self, path: Path) -> Callable[[Floats], Floats] | None:
        """Return a function from images (n, C, H, W) to outputs (n, K) on the device; None on this machine.

        Each call is a conversation of about a second: give it some hundred images.
        """
        device = self.device
        if device is None:
            return None
        runtime, threads = self.target.runtime, self.target.threads
        return lambda images: device.predict(path, images, runtime=runtime, threads=threads)

    def machine(self) -> dict[str, str]:
        """Return what describes the machine, and the runtime's versions on a device."""
        if self.device is None:
            return worker.describe_machine()
        return {**self.device.about["machine"], **self.device.about["runtimes"]}

    def facts(self) -> dict[str, str]:
        """Return what a measurement says of the machine it was taken on."""
        return worker.describe_machine() if self.device is None else dict(self.device.about["machine"])

    def about(self, threads: int = 1) -> dict[str, Any]:  # Any: what the worker describes
        """Return all that the worker says of the machine."""
        job = ssh.worker_job("describe", threads=threads)
        return local.ask(job) if self.device is None else self.device.ask(job)


@contextlib.contextmanager
def place(target: Target, *, setup: bool = False, needs_runtime: bool = True) -> Iterator[Place]:
    """Open the place of a target: `target.host`, or this machine.

    Raises:
        TargetUnreachable: The device, its Python or its runtime is not there.
    """
    if not target.host:
        yield Place(target=target, device=None)
        return
    with ssh.connect(
        target.host,
        runtime=target.runtime if needs_runtime else None,
        python=target.python,
        folder=target.folder,
        arch=target.arch,
        ssh_config=target.ssh_config,
        setup=setup,
    ) as device:
        yield Place(target=target, device=device)
