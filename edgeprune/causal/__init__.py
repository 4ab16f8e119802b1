"""Causal: C-SWAP, which units a network does not need (METHODS §1-2).

evaluation.py one intervention, shard by shard
verdict.py   scores under an intervention -> critical, neutral or detrimental
program.py   the traced network compiled, BatchNorm folded (fold.py), ops by faster kernels (kernels.py)
replay.py    runs the traced network under interventions, recomputing only what changes
delta.py     the first layer behind the cut, corrected instead of run again
masks.py     several interventions in one run, with layout.py: where the images lie in a value
batched.py   the interventions that come next, evaluated ahead
ordered.py   blocks of units of all layers in one global order, with group tests
explain.py   one intervention for each unit of a group: what every class loses
walk.py      layer by layer: the order of interventions and what is removed
"""

from edgeprune.causal.batched import Batched
from edgeprune.causal.evaluation import Alone, Crew, Examiner, Shard, make_shards
from edgeprune.causal.explain import explain
from edgeprune.causal.fold import unfolded
from edgeprune.causal.ordered import OrderedWalk, joined
from edgeprune.causal.program import Program, Values
from edgeprune.causal.replay import Replay, zeroed
from edgeprune.causal.verdict import Choice, Judge, make_judge, welch_z
from edgeprune.causal.walk import Forecast, Rules, Walker, aligned_step, walk

__all__ = [
    "Alone",
    "Batched",
    "Choice",
    "Crew",
    "Examiner",
    "Forecast",
    "Judge",
    "OrderedWalk",
    "Program",
    "Replay",
    "Rules",
    "Shard",
    "Values",
    "Walker",
    "aligned_step",
    "explain",
    "joined",
    "make_judge",
    "make_shards",
    "unfolded",
    "walk",
    "welch_z",
    "zeroed",
]
