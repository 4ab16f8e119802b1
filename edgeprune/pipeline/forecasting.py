"""What the removal of each unit should do to the scores of each class, to first order: one run back for all.

On MobileNetV2 forecasts and effects go together (over classes, the correlation of the median unit is 0.85 to
1.00, in five groups). A refusal took 13 to 16 images there in their order (27 in one group), 12 to 14 in the
best one, and 16 to 50 where the classes nearest to their limits came first.
"""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import torch
from torch import Tensor

from edgeprune import causal
from edgeprune.pipeline.study import Study
from edgeprune.records import ChannelGroup, Doubles

log = logging.getLogger(__name__)

NO_DERIVATIVE = ("derivative", "grad")
"""What torch says of an op without one; of memory that runs out it says something else."""


def foretell(study: Study, replay: causal.Replay, group: ChannelGroup) -> causal.Forecast:
    """A forecast for the network as it is now; it costs about three looks at all images, when asked for.

    It tells nothing where the options want none, scores are no smooth function of the outputs, or the network
    has no derivative.
    """
    if not study.foretells:
        return lambda: None
    weights = dict(replay.weights)

    def changes(shard: causal.Shard) -> Doubles:
        labels = torch.from_numpy(study.labels[shard.images])

        def scores(outputs: Tensor, images: slice) -> Tensor:
            return outputs.double().softmax(dim=1).gather(1, labels[images, None])

        try:
            found = replay.changes(shard.number, group, scores, weights)
        except RuntimeError as err:
            if not any(word in str(err) for word in NO_DERIVATIVE):
                raise
            log.info("%s: no forecast, %s", group.name, str(err).strip().partition("\n")[0])
            return np.full(group.units, np.nan)
        return np.asarray(found / (shard.scores.stop - shard.scores.start), dtype=np.float64)

    @cache
    def forecast() -> Doubles | None:
        found = np.stack(study.journey.crew.gather(changes, study.shards, width=group.units), axis=1)
        return found if np.isfinite(found).all() else None

    return forecast
