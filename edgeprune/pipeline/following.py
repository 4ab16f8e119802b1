"""The processes that follow the first one of a shared walk: the same network, the steps that it takes."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import distributed

from edgeprune.config import BuildConfig
from edgeprune.errors import JournalError
from edgeprune.pipeline import sharing
from edgeprune.pipeline.building import Build
from edgeprune.pipeline.inputs import Inputs
from edgeprune.pipeline.options import Journey
from edgeprune.pipeline.pruning import find_units
from edgeprune.pipeline.watching import Silence
from edgeprune.runfolder import RunFolder
from edgeprune.scratch import scratch

log = logging.getLogger(__name__)


def serve(config: BuildConfig) -> bool:
    """Take part in the walks of the first process until it ends; False in that one itself.

    Raises:
        EdgepruneError: as a build of the same settings would.
    """
    crew = sharing.join()
    if crew.rank == 0:
        return False
    with scratch() as place:
        own = config.model_copy(update={"out": Path(place) / "run"})
        inputs = Inputs.load(own)
        with RunFolder.open(own.out) as folder:
            build = Build(inputs, folder, Silence())
            while (word := crew.agree(sharing.END)) != sharing.END:
                recorded = sharing.STEPS.validate_json(word.removeprefix(b"walk"))
                journey = Journey(recorded=recorded, memory_limit=config.memory_limit, crew=crew)
                try:
                    find_units(build.analysed, build.images, build.options, journey)
                except JournalError:  # the first process starts the walk again
                    log.info("the recorded steps are of another walk")
    distributed.destroy_process_group()
    return True
