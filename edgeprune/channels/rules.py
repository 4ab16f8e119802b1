"""The table: what each op says about coupling.

A rule states what is tied, frozen or new, and decides nothing else. An op without a rule freezes all its
operands and is counted in `Ties.unknown`. Pointwise ops are known by PyTorch's own tag. The table names ops
as `torch.export` leaves them; those that it always decomposes (reshape, dropout) are not here.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import fx

from edgeprune.channels import layers, products, shapes
from edgeprune.channels.own import apply_own
from edgeprune.channels.reading import Op, Rule
from edgeprune.channels.ties import Ties

aten = torch.ops.aten


Rules = Mapping[Op, Rule]


def couple_node(node: fx.Node, ties: Ties, extra: Rules) -> None:
    """Apply the rule of one node; an op without one freezes what it reads.

    Args:
        node: A call of an op.
        ties: What is said so far.
        extra: Rules of the user's own; they win.

    Raises:
        ModelError: a rule of the user's own failed.
    """
    if own := extra.get(node.target):
        apply_own(own, node, ties)
        return
    rule = RULES.get(node.target)
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = products.pointwise
    if rule is not None:
        rule(node, ties)
    elif any(ties.factors(n) or ties.outputs.get(n) for n in node.all_input_nodes):
        name = str(node.target)
        ties.unknown[name] = ties.unknown.get(name, 0) + 1
        ties.freeze_all(node, f"no rule for {name}")


RULES: dict[Op, Rule] = {
    # layers
    **dict.fromkeys([aten.conv1d.default, aten.conv2d.default, aten.conv3d.default], layers.convolution),
    **dict.fromkeys([aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding], layers.convolution),
    aten.conv_transpose1d.default: layers.transposed_convolution,
    **dict.fromkeys(
        [aten.conv_transpose2d.input, aten.conv_transpose3d.input], layers.transposed_convolution
    ),
    aten.linear.default: layers.linear,
    aten.embedding.default: layers.embedding,
    aten._weight_norm.default: layers.weight_norm,
    aten._native_batch_norm_legit_no_training.default: layers.batch_norm,
    aten._native_batch_norm_legit.no_stats: layers.batch_norm_without_statistics,
    aten.instance_norm.default: layers.instance_norm,
    aten.group_norm.default: layers.group_norm,
    **dict.fromkeys([aten.layer_norm.default, aten.rms_norm.default], layers.layer_norm),
    **dict.fromkeys([aten.softmax.int, aten._softmax.default, aten.log_softmax.int], layers.softmax),
    # elementwise and products
    **dict.fromkeys([aten.hardswish.default, aten.hardsigmoid.default], products.pointwise),
    **dict.fromkeys([aten.fill.Scalar, aten.zero.default, aten.copy.default], products.pointwise),
    aten.prelu.default: products.prelu,
    **dict.fromkeys([aten.matmul.default, aten.bmm.default, aten.mm.default], products.matmul),
    aten.einsum.default: products.einsum,
    aten.scaled_dot_product_attention.default: products.attention,
    # shapes
    **dict.fromkeys([aten.clone.default, aten.alias.default, aten.detach.default], shapes.same),
    **dict.fromkeys([aten._to_copy.default, aten.type_as.default], shapes.same),
    aten.zeros_like.default: shapes.same,
    **dict.fromkeys([aten.ones_like.default, aten.full_like.default], shapes.same),
    **dict.fromkeys([aten.new_zeros.default, aten.new_ones.default, aten.new_full.default], shapes.ignore),
    **dict.fromkeys([aten.view.default, aten._unsafe_view.default], shapes.view),
    aten.expand.default: shapes.expand,
    aten.repeat.default: shapes.repeat,
    aten.permute.default: shapes.permute,
    **dict.fromkeys([aten.transpose.int, aten.t.default], shapes.transpose),
    aten.unsqueeze.default: shapes.unsqueeze,
    **dict.fromkeys([aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims], shapes.squeeze),
    aten.flip.default: shapes.flip,
    aten.roll.default: shapes.roll,
    aten.cat.default: shapes.concat,
    aten.stack.default: shapes.stack,
    **dict.fromkeys([aten.split.Tensor, aten.split_with_sizes.default], shapes.split),
    aten.slice.Tensor: shapes.narrow,
    aten.slice_scatter.default: shapes.slice_scatter,
    aten.select.int: shapes.select,
    aten.unbind.int: shapes.unbind,
    aten.index.Tensor: shapes.gather_rows,
    **dict.fromkeys([aten.pad.default, aten.constant_pad_nd.default], shapes.pad),
    aten.glu.default: shapes.glu,
    aten.pixel_shuffle.default: shapes.pixel_shuffle,
    aten.pixel_unshuffle.default: shapes.pixel_unshuffle,
    aten.im2col.default: shapes.unfold,
    aten.unfold.default: shapes.windows,
    aten.col2im.default: shapes.fold,
    aten.channel_shuffle.default: shapes.channel_shuffle,
    # pooling and reducing
    **dict.fromkeys([aten.avg_pool1d.default, aten.avg_pool2d.default], shapes.spatial),
    **dict.fromkeys([aten.max_pool1d.default, aten.max_pool2d.default], shapes.spatial),
    **dict.fromkeys([aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default], shapes.spatial),
    **dict.fromkeys(
        [aten.adaptive_max_pool2d.default, aten.max_pool2d_with_indices.default], shapes.spatial_many
    ),
    **dict.fromkeys([aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec], shapes.spatial),
    aten.upsample_bicubic2d.vec: shapes.spatial,
    **dict.fromkeys([aten.reflection_pad2d.default, aten.replication_pad2d.default], shapes.spatial),
    **dict.fromkeys([aten.mean.dim, aten.sum.dim_IntList, aten.var.dim, aten.var.correction], shapes.reduce),
    **dict.fromkeys([aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim], shapes.reduce),
    **dict.fromkeys([aten.mean.default, aten.sum.default, aten.linalg_vector_norm.default], shapes.reduce),
    # several outputs, sizes, checks
    operator.getitem: shapes.item,
    **dict.fromkeys([aten.sym_size.int, aten._assert_tensor_metadata.default], shapes.ignore),
}
