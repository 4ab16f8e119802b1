"""The order of the rooms: the only place that knows two of them.

prune.py     in memory: network + images -> smaller network
deploy.py    one network -> the deployed file, parity at every hand-over
build.py     all of it, in a run folder, with resume
"""

from edgeprune.pipeline.building import Build, Silence, Watcher, build
from edgeprune.pipeline.pruning import PrunedModel, PruneOptions, load, prune

__all__ = ["Build", "PruneOptions", "PrunedModel", "Silence", "Watcher", "build", "load", "prune"]
