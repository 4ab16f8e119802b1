"""No criterion at all: what any other has to beat."""

from __future__ import annotations

import numpy as np

from edgeprune.criteria.subject import Scores, Subject


def chance(subject: Subject, seed: int) -> Scores:
    """Uniform in [0, 1)."""
    generator = np.random.default_rng(seed)
    return {group.name: generator.random(group.units) for group in subject.groups}
