"""Latency of a network on its target, as a function of the widths of its channel groups.

widths.py   which pruned variants to measure
shapes.py   which groups the axes of the runtime's operators belong to, told from the variants alone
fitting.py  profiles of the variants -> a model
model.py    the model's predictions
"""

from edgeprune.latency.fitting import Setting, fit
from edgeprune.latency.model import operator_times, predict
from edgeprune.latency.widths import variants

__all__ = ["Setting", "fit", "operator_times", "predict", "variants"]
