"""Causal: C-SWAP, which units a network does not need (METHODS §1-2).

verdict.py   scores under an intervention -> critical, neutral or detrimental
replay.py    runs the traced network under interventions, recomputing only what changes
walk.py      the order of interventions and what is removed
"""

from edgeprune.causal.replay import Replay
from edgeprune.causal.verdict import Judge, make_judge
from edgeprune.causal.walk import Rules, Shard, Walker, aligned_step, make_shards, walk

__all__ = ["Judge", "Replay", "Rules", "Shard", "Walker", "aligned_step", "make_judge", "make_shards", "walk"]
