"""Compensation: what surviving channels know about removed ones, in ordinary weights (METHODS §3).

layers.py         a layer's inputs as rows: one row per position that its weight is multiplied with
moments.py        mean and covariance of what each layer reads
shares.py         what channels that leave are predicted from: shares of those that stay
survivors.py      the network without units, their shares given to the survivors, and the damage that is left
needs.py          the memory that this takes
batchnorm.py      statistics re-estimated, for criteria without compensation
refit.py          sequential least squares: inputs from the current network, targets from the dense one
least_squares.py  the normal equations of one layer
activations.py    fits that count only what the activation behind a layer lets through
"""

from edgeprune.compensate.batchnorm import reestimate
from edgeprune.compensate.layers import Layer, Subject, find_layers
from edgeprune.compensate.moments import Measured, Moments, measure_moments
from edgeprune.compensate.needs import working_bytes
from edgeprune.compensate.refit import Refit, refit
from edgeprune.compensate.survivors import Block, Survivors, in_order

__all__ = [
    "Block",
    "Layer",
    "Measured",
    "Moments",
    "Refit",
    "Subject",
    "Survivors",
    "find_layers",
    "in_order",
    "measure_moments",
    "reestimate",
    "refit",
    "working_bytes",
]
