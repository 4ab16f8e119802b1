"""Where a target's artifacts are measured: on this machine, or on a device over SSH. One verb for both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from edgeprune.errors import InputError, ModelError
from edgeprune.measure import local, ssh, worker
from edgeprune.measure.files import check_files
from edgeprune.measure.measuring import measure
from edgeprune.measure.ssh import Device
from edgeprune.measure.worker import Job
from edgeprune.records import Floats, Measurement, Target

IMAGE_AXES = 4
MOST_VALUES = 300_000_000
"""Of one image: about as many as a picture of 10,000 x 10,000 pixels holds."""


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

    def image_shape(self, path: Path) -> tuple[int, ...]:
        """Return the shape of one image that a network's file reads, (C, H, W).

        The runtime opens it in a process of its own: a file that takes the runtime down takes nothing else.

        Raises:
            InputError: No such file, weights outside of its folder, or sizes that are free.
            ModelError: The runtime cannot open it.
        """
        check_files({path.name: path})
        job = {**ssh.worker_job("shape", runtime=self.target.runtime), "artifacts": [str(path.resolve())]}
        found = local.ask(cast(Job, job)) if self.device is None else self.device.ask(cast(Job, job))
        if found["inputs"] != 1:
            raise ModelError(
                f"{path}: the network has {found['inputs']} inputs; export one that reads a single image."
            )
        shape = tuple(found["shape"][1:])
        if len(found["shape"]) != IMAGE_AXES or not all(isinstance(size, int) and size > 0 for size in shape):
            raise InputError(f"{path}: it does not read images (1, C, H, W) of a fixed size; export it so.")
        if math.prod(shape) > MOST_VALUES:
            raise InputError(f"{path}: it reads images of {'x'.join(map(str, shape))}, absurdly large.")
        return shape

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
