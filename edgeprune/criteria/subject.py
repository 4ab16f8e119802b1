"""What a criterion looks at, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edgeprune.records import ChannelGroup

Scores = dict[str, NDArray[np.float64]]
"""Group name -> one number per unit, shape (units,); higher: more worth keeping."""

MOST_IMAGES, PIXELS = 64, 1 << 20
"""A batch holds at most so many images, and not many more pixels than this: gradients keep every value."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A dense network with its channel groups, and images to judge them by."""

    graph: fx.GraphModule
    """Functional graph of ATen ops in evaluation mode; parameters are get_attr nodes."""
    groups: tuple[ChannelGroup, ...]
    images: Tensor
    """Shape (N, C, H, W), as the network reads them."""
    labels: Tensor
    """Shape (N,)."""
    module: nn.Module
    """The dense network itself."""
    batch: int | None = None
    """The only batch size that the graph accepts; None when it accepts any."""
    on_progress: Callable[[int, int], None] = lambda done, total: None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, as many at once as memory likes."""
        size = self.batch_size
        for start in range(0, len(self.images), size):
            yield self.images[start : start + size], self.labels[start : start + size]

    @property
    def batch_size(self) -> int:
        height, width = self.images.shape[-2:]
        return self.batch or max(1, min(MOST_IMAGES, PIXELS // (height * width)))
