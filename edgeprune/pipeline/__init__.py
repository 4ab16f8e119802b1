"""The order of the rooms: the only place that knows two of them.

In memory, a network and images:
pruning.py     which units it does not need
options.py     what an analysis is asked for
study.py       network and images, ready for any method; ledger.py: what removing units saves
orders.py      in which order units leave; beyond the natural end several compete
finalists.py   at one share the walk's units or those of the least magnitude, whichever answer better
clocking.py    the final measurement, longer where it leaves a limit open
compensated.py c-swap-c; published.py: c-swap; ranked.py: rival criteria
forecasting.py what each unit of a group should do to each class: who is asked first
devices.py     where an analysis runs; needs.py: the memory that it takes in any case
effects.py     what removals do to the answers, so that damages of different layers compare
sharing.py     one walk, several processes; following.py: those that follow the first
saving.py      the smaller network as an object: made, saved and made again
own_rules.py   coupling rules of the user's own; tasking.py: the name of a task -> the task

To a budget:
searching.py   what a search needs; budgeting.py: budgets as its goals; modelling.py: the latency model
finding.py     which network a budget asks for; descent.py: the rounds that make one cheaper
giving_back.py no deployed network is slower than the dense one

The deployed file:
deploying.py   one network -> the file, parity at every hand-over; finite.py: where a NaN begins
quantizing.py  the same in 8 bits; forms.py: other forms of it
evaluating.py  how good the files are; timing.py: how long networks take before they are deployed

A build and its run folder:
inputs.py      configuration -> target and network; beginning.py: a first look at them
building.py    all of it, with resume; digests.py: what a stage depends on; watching.py: who sees it go by
journaling.py  walks whose steps are written down, so that a killed one goes on
room.py        the room on disk that it takes; components.py: what it was made with
kept.py        what a run folder remembers: settings, walk
telling.py     what the report says besides the stages; picturing.py: its pictures

Of a finished run:
trajectory.py  the units that a walk removed, in order; prefix.py: cut at any share
explaining.py  its units taken out one by one
sweeping.py    curves of several methods
"""

from edgeprune.pipeline.building import Build, build
from edgeprune.pipeline.options import PruneOptions
from edgeprune.pipeline.saving import PrunedModel, load, prune
from edgeprune.pipeline.watching import Silence, Watcher

__all__ = ["Build", "PruneOptions", "PrunedModel", "Silence", "Watcher", "build", "load", "prune"]
