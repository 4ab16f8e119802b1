"""onnxsim's structured pruning of the exported network, with its own refit and with BatchNorm statistics.

Used by `bench_peers.py` for methods named `onnxsim-...`. BatchNorms are mostly folded into convolutions;
`+ridge` is its own closed-form refit, of linear layers only, and `+bn` (or `+ridge+bn`) gives every output
that a BatchNorm stood behind the statistics of the dense network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from edgeprune.pipeline.sweeping import Field

Array = np.ndarray[Any, Any]
Maker = Callable[[float], tuple[Any, float]]
"""A share of the channels -> the pruned network, share of the parameters removed."""
Finish = Callable[[Any], Callable[[torch.Tensor], Any]]
"""The pruned network -> repaired as the method says, ready to run."""
BATCH = 64
NO_BIAS = 2
"""Inputs of a convolution without one."""
SMALL = 1e-6
"""Spread of a channel that says nothing."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def onnxsim(field: Field, name: str, extra: str) -> tuple[Maker, Finish]:
    """Makes and finishes prunings of the exported network."""
    import onnxruntime
    import onnxsim as peer

    images = field.images.calibration.images
    dense = exported(field)
    source = dense.graph.input[0].name
    batches = [{source: images[first : first + BATCH]} for first in range(0, len(images), BATCH)]
    whole = parameters(dense)

    def make(ratio: float) -> tuple[Any, float]:
        if not ratio:
            pruned = dense
        elif name == "onnxsim-l2":
            pruned = peer.apply_structured_pruning(dense, sparsity=ratio, global_sparsity=True)
        else:
            pruned = peer.apply_structured_wanda_pruning(dense, batches, sparsity=ratio, global_sparsity=True)
        return pruned, 1 - parameters(pruned) / whole

    def finish(pruned: Any) -> Callable[[torch.Tensor], Any]:
        repairs = extra.split("+") if pruned is not dense else []
        if "ridge" in repairs:
            pruned = peer.apply_pruning_finetune(dense, pruned, batches)
        if "bn" in repairs and any(isinstance(layer, NORMS) for layer in field.analysed.module.modules()):
            pruned = restandardized(dense, pruned, batches)
        session = onnxruntime.InferenceSession(pruned.SerializeToString(), providers=["CPUExecutionProvider"])

        def run(batch: torch.Tensor) -> Array:
            (outputs,) = session.run(None, {source: batch.numpy()})
            return np.asarray(outputs)

        return run

    return make, finish


def exported(field: Field) -> Any:  # an onnx.ModelProto
    """The dense network as ONNX with a dynamic batch, simplified."""
    import onnxsim as peer

    images = torch.from_numpy(field.images.calibration.images[:2])
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its encoders have no ONNX form
    try:
        program = torch.onnx.export(
            field.analysed.module, (images,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
        )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert program is not None
    return peer.simplify(program.model_proto)[0]


def restandardized(dense: Any, pruned: Any, batches: Sequence[Mapping[str, Array]]) -> Any:
    """BatchNorms with the statistics of the pruned network; those that are folded, by what they would do.

    A convolution with a bias has a BatchNorm in it: every channel gets the mean and spread that it has in the
    dense network.
    """
    from onnx import numpy_helper

    result = copy.deepcopy(pruned)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in dense.graph.initializer}
    made = {node.output[0]: node for node in dense.graph.node if node.op_type == "Conv"}
    told = statistics(dense, [name for name, node in made.items() if len(node.input) > NO_BIAS], batches)

    def give_(name: str, value: Array) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))

    for node in result.graph.node:
        name = node.output[0]
        if node.op_type == "BatchNormalization":
            mean, spread = statistics(result, [node.input[0]], batches)[node.input[0]]
            give_(node.input[3], mean)
            give_(node.input[4], spread**2)
        elif node.op_type == "Conv" and name in told:
            weight, bias = (
                numpy_helper.to_array(tensors[each]).astype(np.float64) for each in node.input[1:]
            )
            kept = kept_of(before[made[name].input[2]], bias)
            mean, spread = statistics(result, [name], batches)[name]
            scale = told[name][1][kept] / np.maximum(spread, SMALL)
            give_(node.input[1], weight * scale[:, None, None, None])
            give_(node.input[2], (bias - mean) * scale + told[name][0][kept])
    return result


def statistics(
    model: Any, names: Sequence[str], batches: Sequence[Mapping[str, Array]]
) -> dict[str, tuple[Array, Array]]:
    """Mean and standard deviation of each channel of some values, over all images and positions."""
    import onnxruntime
    from onnx import TensorProto, helper

    if not names:
        return {}
    part = copy.deepcopy(model)
    del part.graph.output[:]
    part.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = [[0.0, 0.0, 0] for _ in names]
    for batch in batches:
        for total, value in zip(sums, session.run(list(names), dict(batch)), strict=True):
            wide = value.astype(np.float64)
            axes = tuple(axis for axis in range(wide.ndim) if axis != 1)
            total[0] = total[0] + wide.sum(axis=axes)
            total[1] = total[1] + np.square(wide).sum(axis=axes)
            total[2] += wide.size // wide.shape[1]
    found = {}
    for name, (first, second, count) in zip(names, sums, strict=True):
        mean = np.asarray(first) / count
        found[name] = mean, np.sqrt(np.maximum(np.asarray(second) / count - mean**2, 0.0))
    return found


def kept_of(before: Array, after: Array) -> list[int]:
    """Which channels of the dense convolution are still there, by their biases: they keep their order."""
    kept, place = [], 0
    for value in after.astype(before.dtype):
        place += int(np.flatnonzero(before[place:] == value)[0])
        kept.append(place)
        place += 1
    return kept


def parameters(model: Any) -> int:  # an onnx.ModelProto
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer if len(tensor.dims) > 0)
