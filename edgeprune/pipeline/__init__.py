"""The order of the rooms: the only place that knows two of them.

pruning.py    in memory: network + images -> which units it does not need
saving.py     the smaller network as an object: made, saved and made again
deploying.py  one network -> the deployed file, parity at every hand-over
digests.py    what a stage depends on
inputs.py     configuration -> target and network
beginning.py  a first look at a network and its images, before a build
own_rules.py  coupling rules of the user's own
building.py   all of it, in a run folder, with resume
telling.py    what the report says besides the stages: provenance, the course, images that changed
kept.py       what a run folder remembers: settings, walk
trajectory.py the units that a walk removed, in order
prefix.py     a finished run's trajectory cut at any share
explaining.py a finished run's units taken out one by one
"""

from edgeprune.pipeline.building import Build, build
from edgeprune.pipeline.options import PruneOptions
from edgeprune.pipeline.saving import PrunedModel, load, prune
from edgeprune.pipeline.watching import Silence, Watcher

__all__ = ["Build", "PruneOptions", "PrunedModel", "Silence", "Watcher", "build", "load", "prune"]
