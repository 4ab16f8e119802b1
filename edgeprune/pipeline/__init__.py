"""The order of the rooms: the only place that knows two of them.

pruning.py    in memory: network + images -> which units it does not need
saving.py     the smaller network as an object: made, saved and made again
deploying.py  one network -> the deployed file, parity at every hand-over
digests.py    what a stage depends on
inputs.py     configuration -> target and network
building.py   all of it, in a run folder, with resume
"""

from edgeprune.pipeline.building import Build, Silence, Watcher, build
from edgeprune.pipeline.options import PruneOptions
from edgeprune.pipeline.saving import PrunedModel, load, prune

__all__ = ["Build", "PruneOptions", "PrunedModel", "Silence", "Watcher", "build", "load", "prune"]
