"""Channels: module -> channel groups, by ties over `torch.export`.

trace.py    module -> traced graph of ATen ops
ties.py     identities of channels, and what is tied to what
rules.py    the table: op -> rule; rules live in layers.py, products.py, shapes.py (reading.py helps them)
own.py      rules of the user's own
heads.py    attention heads cut in width instead of whole
groups.py   ties -> channel groups, frozen axes with reasons
cut.py      groups + units -> the graph masked or cut (repairs.py corrects its shape constants)
costs.py    groups + units -> parameters and multiply-adds
activations.py  what activations take at once, at any widths
forms.py    groups -> how the axes of all tensors follow their widths
"""

from edgeprune.channels.activations import Activations
from edgeprune.channels.costs import Costs
from edgeprune.channels.cut import cut, kept_indices, masked, removed_by
from edgeprune.channels.forms import width_forms
from edgeprune.channels.groups import TIE_BYTES, Bound, Coupling, couple, why_nothing
from edgeprune.channels.own import user_rules
from edgeprune.channels.reading import Rule
from edgeprune.channels.rules import Rules
from edgeprune.channels.trace import Traced, trace

__all__ = [
    "TIE_BYTES",
    "Activations",
    "Bound",
    "Costs",
    "Coupling",
    "Rule",
    "Rules",
    "Traced",
    "couple",
    "cut",
    "kept_indices",
    "masked",
    "removed_by",
    "trace",
    "user_rules",
    "why_nothing",
    "width_forms",
]
