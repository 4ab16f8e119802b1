"""Channels: module -> channel groups, by ties over `torch.export`.

trace.py    module -> traced graph of ATen ops
ties.py     identities of channels, and what is tied to what
rules.py    the table: op -> rule; rules live in layers.py, products.py, shapes.py (reading.py helps them)
heads.py    attention heads cut in width instead of whole
groups.py   ties -> channel groups, frozen axes with reasons
cut.py      groups + units -> the graph masked or cut (repairs.py corrects its shape constants)
costs.py    groups + units -> parameters and multiply-adds
"""

from edgeprune.channels.costs import Costs
from edgeprune.channels.cut import cut, kept_indices, masked, sliced
from edgeprune.channels.groups import Bound, Coupling, couple, why_nothing
from edgeprune.channels.trace import Traced, trace

__all__ = [
    "Bound",
    "Costs",
    "Coupling",
    "Traced",
    "couple",
    "cut",
    "kept_indices",
    "masked",
    "sliced",
    "trace",
    "why_nothing",
]
