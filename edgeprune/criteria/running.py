"""Runs a traced graph and lets a criterion at what its layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.nn import functional

from edgeprune.criteria.reading import Reading
from edgeprune.errors import ModelError
from edgeprune.records import IGNORED

Touch = Callable[[fx.Node, Tensor], Tensor]
"""What a layer reads instead of its data input."""
Taps = dict[fx.Node, Tensor]
"""Layer -> its data input: what this layer reads, not what others read of the same tensor."""


class Runner(fx.Interpreter):
    """Runs a traced graph; weights need no gradient.

    Args:
        graph: From `edgeprune.channels.trace`.
        readings: The layers to look into.
        touch: Called with each of them and its data input.
        weights: Parameters or buffers to run with instead of the graph's.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        readings: Iterable[Reading],
        touch: Touch,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(graph)
        self.extra_traceback = False  # an error's message stays one line
        self._sources = {reading.layer: reading.source for reading in readings}
        self._touch = touch
        self._weights = weights or {}

    # Any: as torch types them
    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self._weights.get(target)
        value = super().get_attr(target, args, kwargs) if value is None else value
        return value.detach() if isinstance(value, Tensor) else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.copy.default:  # has no derivative
            return args[1].to(args[0].dtype).expand_as(args[0])
        return super().call_function(target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        source = self._sources.get(n)
        if source is None:
            return super().fetch_args_kwargs_from_env(n)
        read = self._touch(n, self.env[source])

        def load(node: fx.Node) -> Any:
            return read if node is source else self.env[node]

        return map_arg(n.args, load), map_arg(n.kwargs, load)


class Tap:
    """Keeps what each layer reads, so that gradients can be asked for."""

    def __init__(self, *, gradients: bool = True) -> None:
        self.taps: Taps = {}
        self._gradients = gradients

    def __call__(self, layer: fx.Node, value: Tensor) -> Tensor:
        if self._gradients:
            value = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        self.taps[layer] = value
        return value


def with_taps(graph: fx.GraphModule, readings: Iterable[Reading], images: Tensor) -> tuple[Tensor, Taps]:
    """Logits, and what the layers read, ready for `slopes`.

    Raises:
        ModelError: an op of the network has no derivative.
    """
    tap = Tap()
    try:
        with torch.enable_grad():
            logits = Runner(graph, readings, tap).run(images)
    except (NotImplementedError, RuntimeError) as err:
        reason = str(err).strip().splitlines()[0]
        raise ModelError(f"the network runs without gradients only: {reason}.") from err
    return logits, tap.taps


def slopes(target: Tensor, taps: Taps) -> Taps:
    """∂target/∂tap for each layer; zeros where the target does not depend on it."""
    gradients = torch.autograd.grad(target, list(taps.values()), allow_unused=True)
    pairs = zip(taps.items(), gradients, strict=True)
    return {layer: torch.zeros_like(tap) if slope is None else slope for (layer, tap), slope in pairs}


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the true classes, summed over images, and over the pixels of masks.

    In double precision from the logits on: a confident network's gradient would be rounded to zero.
    """
    if labels.ndim == 1:
        return functional.cross_entropy(class_scores(logits).double(), labels, reduction="sum")
    masks = functional.interpolate(labels[:, None].double(), size=logits.shape[2:], mode="nearest-exact")
    truth = masks[:, 0].long()
    return functional.cross_entropy(logits.double(), truth, reduction="sum", ignore_index=IGNORED)


def class_scores(logits: object) -> Tensor:
    """The network's output, if it is one row of class scores per image."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:  # noqa: PLR2004  # (images, classes)
        raise ModelError("this criterion needs one score per class and image; choose one of weights alone.")
    return logits
