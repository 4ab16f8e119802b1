"""Tiny networks, one or more for every coupling rule, and for every pattern that other tools get wrong.

Each is a stem (3 -> 8 channels), a body, the mean over space and a linear head. `units` is how many units are
free in it, counted by hand: a rule that freezes too much fails as surely as one that ties too little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny_bodies as bodies
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

aten = torch.ops.aten
SIDE = 8


class Tiny(nn.Module):
    """Stem, body, mean, head; the body gets the network and features (N, 8, 8, 8)."""

    def __init__(self, body: bodies.Body, out: int, layers: dict[str, object]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(out, 5)
        self.body = body
        for name, layer in layers.items():
            if isinstance(layer, Tensor) and not isinstance(layer, nn.Parameter):
                self.register_buffer(name, layer)
            else:
                setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(self, torch.relu(self.norm(self.stem(x))))
        scores: Tensor = self.head(features.flatten(2).mean(2))
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyNet:
    make: Callable[[], nn.Module]
    units: int


def net(body: bodies.Body, units: int, *, out: int = 8, **layers: Callable[[], object]) -> TinyNet:
    return TinyNet(
        make=lambda: Tiny(body, out, {name: layer() for name, layer in layers.items()}), units=units
    )


def conv(inputs: int = 8, outputs: int = 8, size: int = 3, **options: Any) -> Callable[[], nn.Module]:
    # Any: options of nn.Conv2d
    return lambda: nn.Conv2d(inputs, outputs, size, **({"padding": size // 2} | options))


def conv_1d(inputs: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Conv1d(inputs, outputs, 1)


def dense(inputs: int = 8, outputs: int = 8) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(inputs, outputs)


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.rand(shape) + 0.5)


def tied(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Two layers that share their weight."""

    def build() -> nn.Module:
        layers = nn.ModuleList([make(), make()])
        layers[1].weight = layers[0].weight
        return layers

    return build


QKV = {"q": dense(), "k": dense(), "v": dense(), "proj": dense()}
FUSED = {"qkv": dense(8, 24), "proj": dense()}

TINY_NETS: dict[str, TinyNet] = {
    # elementwise and gates
    "plain": net(lambda m, x: m.a(x), 16, a=conv()),
    "residual": net(lambda m, x: m.b(torch.relu(m.a(x))) + x, 16, a=conv(), b=conv()),
    "squeeze_excite": net(bodies.squeeze_excite, 12, a=conv(8, 4, 1), b=conv(4, 8, 1)),
    "one_channel_gate": net(lambda m, x: x * torch.sigmoid(m.a(x)), 8, a=conv(8, 1)),
    "spatial_gate": net(bodies.spatial_gate, 8, a=conv(), gate=conv(2, 1, 7)),
    "channel_attention": net(
        bodies.efficient_channel_attention, 8, a=conv(), gate=lambda: nn.Conv1d(1, 1, 3, padding=1)
    ),
    "selective_kernel": net(
        bodies.selective_kernel,
        20,
        a=conv(),
        b=conv(),
        squeeze=dense(8, 4),
        gate_a=dense(4, 8),
        gate_b=dense(4, 8),
    ),
    "glu": net(lambda m, x: functional.glu(m.a(x), 1), 16, a=conv(8, 16)),
    "glu_by_chunk": net(bodies.glu_by_chunk, 16, a=conv(8, 16)),
    "scale_parameter": net(lambda m, x: x * m.p, 8, p=parameter(8, 1, 1)),
    "squeezed_parameter": net(
        lambda m, x: bodies.features(bodies.tokens(x) * m.p.squeeze()), 8, p=parameter(1, 8, 1, 1)
    ),
    "full_parameter": net(lambda m, x: x + m.p, 8, p=parameter(1, 8, SIDE, SIDE)),
    "scale_buffer": net(lambda m, x: x * m.p, 8, p=lambda: torch.rand(8, 1, 1) + 0.5),
    "constant": net(bodies.constant, 8),
    "activations": net(lambda m, x: functional.hardswish(functional.hardsigmoid(x) + 1), 8),
    "where": net(lambda m, x: torch.where(x > 0.1, m.a(x), torch.zeros_like(x)), 8, a=conv()),
    "filled": net(
        bodies.filled,
        8,
        a=conv(),
    ),
    "prelu": net(lambda m, x: m.slope(m.norm(x)), 8, slope=lambda: nn.PReLU(8)),
    "prelu_one_slope": net(lambda m, x: m.slope(m.norm(x)), 8, slope=nn.PReLU),
    "same": net(
        lambda m, x: aten.alias(functional.dropout(x.double().float(), 0.5, False).detach()).type_as(x), 8
    ),
    # convolutions
    "conv_same_padding": net(
        lambda m, x: m.b(m.a(x)), 12, a=conv(padding="same"), b=conv(padding="same", groups=4)
    ),
    "conv_1d": net(
        lambda m, x: m.c(m.b(m.a(bodies.line(x)))),
        12,
        a=lambda: nn.Conv1d(8, 8, 3, groups=4),
        b=lambda: nn.Conv1d(8, 8, 3, padding="same", groups=4),
        c=lambda: nn.Conv1d(8, 8, 1),
    ),
    "conv_3d": net(
        lambda m, x: m.c(m.b(m.a(bodies.volume(x)))),
        12,
        a=lambda: nn.Conv3d(8, 8, 1, groups=4),
        b=lambda: nn.Conv3d(8, 8, 3, padding="same", groups=4),
        c=lambda: nn.Conv3d(8, 8, 1),
    ),
    "depthwise": net(lambda m, x: m.b(m.a(x)), 16, a=conv(groups=8), b=conv(size=1)),
    "depthwise_multiplier": net(lambda m, x: m.a(x), 8, out=16, a=conv(8, 16, groups=8)),
    "grouped_same_index": net(lambda m, x: m.a(x), 4 + 8, out=16, a=conv(8, 16, groups=2)),
    "grouped_whole": net(lambda m, x: m.a(x), 4, a=conv(groups=4)),
    "grouped_residual": net(lambda m, x: m.a(x) + x, 4, a=conv(groups=4)),
    "grouped_after_concat": net(
        lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), 4, out=16, a=conv(), b=conv(16, 16, groups=4)
    ),
    "transposed": net(lambda m, x: m.a(x), 14, out=6, a=lambda: nn.ConvTranspose2d(8, 6, 2, stride=2)),
    "transposed_grouped": net(lambda m, x: m.a(x), 2, out=6, a=lambda: nn.ConvTranspose2d(8, 6, 2, groups=2)),
    "transposed_depthwise": net(lambda m, x: m.a(x), 8, a=lambda: nn.ConvTranspose2d(8, 8, 2, groups=8)),
    "transposed_1d": net(
        lambda m, x: m.b(m.a(bodies.line(x))),
        12,
        a=lambda: nn.ConvTranspose1d(8, 8, 2, groups=4),
        b=lambda: nn.ConvTranspose1d(8, 8, 2),
    ),
    "transposed_3d": net(
        lambda m, x: m.b(m.a(bodies.volume(x))),
        12,
        a=lambda: nn.ConvTranspose3d(8, 8, 2, groups=4),
        b=lambda: nn.ConvTranspose3d(8, 8, 2),
    ),
    "functional_conv": net(
        lambda m, x: functional.conv2d(functional.conv2d(x, m.p), m.q, m.r),
        24,
        p=parameter(8, 8, 3, 3),
        q=lambda: torch.rand(8, 8, 3, 3),
        r=lambda: torch.rand(8),
    ),
    "shared_conv": net(lambda m, x: m.a(torch.relu(m.a(x))), 8, a=conv()),
    "tied_weights": net(lambda m, x: m.a[1](torch.relu(m.a[0](x))), 8, a=tied(conv())),
    "computed_weight": net(
        lambda m, x: functional.conv2d(x, m.p * m.q), 8, p=parameter(8, 8, 3, 3), q=parameter(8, 1, 1, 1)
    ),
    "weight_norm": net(
        lambda m, x: m.a(m.b(x)),
        16,
        a=lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
        b=conv(),
    ),
    "weight_standardised": net(bodies.weight_standardised, 8, a=conv(), gain=parameter(8, 1, 1, 1)),
    "without_gradient": net(bodies.without_gradient, 24, a=conv(), b=conv()),
    # normalisation
    "frozen_batch_norm": net(lambda m, x: m.a(x), 8, a=lambda: FrozenBatchNorm2d(8)),
    "batch_norm_no_affine": net(lambda m, x: m.a(x), 8, a=lambda: nn.BatchNorm2d(8, affine=False)),
    "batch_norm_without_statistics": net(
        lambda m, x: m.a(x), 8, a=lambda: nn.BatchNorm2d(8, track_running_stats=False)
    ),
    "instance_norm": net(lambda m, x: m.a(x), 8, a=lambda: nn.InstanceNorm2d(8, affine=True)),
    "instance_norm_running": net(
        lambda m, x: m.a(x), 8, a=lambda: nn.InstanceNorm2d(8, track_running_stats=True)
    ),
    "group_norm": net(lambda m, x: m.a(x), 4, a=lambda: nn.GroupNorm(4, 8)),
    "group_norm_of_all": net(lambda m, x: m.a(m.b(x)), 8, a=lambda: nn.GroupNorm(1, 8), b=conv()),
    "layer_norm": net(
        lambda m, x: bodies.features(m.b(m.a(bodies.tokens(x)))), 8, a=lambda: nn.LayerNorm(8), b=dense()
    ),
    "layer_norm_of_space": net(lambda m, x: m.a(x), 8, a=lambda: nn.LayerNorm(SIDE)),
    "rms_norm": net(
        lambda m, x: bodies.features(m.b(m.a(bodies.tokens(x)))), 8, a=lambda: nn.RMSNorm(8), b=dense()
    ),
    "log_softmax": net(lambda m, x: m.a(x).log_softmax(1), 8, a=conv()),
    "softmax": net(lambda m, x: aten._softmax(m.a(x), 1, False), 8, a=conv()),
    # products and attention
    "channels_last": net(
        lambda m, x: m.b(functional.gelu(m.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2),
        28,
        a=dense(8, 12),
        b=dense(12, 8),
    ),
    "matmul_parameter": net(
        lambda m, x: bodies.features(bodies.tokens(x) @ m.p), 14, out=6, p=parameter(8, 6)
    ),
    "mm": net(lambda m, x: torch.mm(x.mean((2, 3)), m.p)[..., None], 14, out=6, p=parameter(8, 6)),
    "einsum": net(lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.p), 14, out=6, p=parameter(8, 6)),
    "einsum_heads": net(
        lambda m, x: torch.einsum("blhd,hdk->bkl", bodies.tokens(m.a(x)).unflatten(-1, (2, 4)), m.p),
        14,
        out=6,
        a=conv(),
        p=parameter(2, 4, 6),
    ),
    "einsum_activations": net(
        lambda m, x: torch.einsum("bcl,bdl->bcd", bodies.line(m.a(x)), bodies.line(m.b(x))),
        16,
        a=conv(),
        b=conv(8, 6),
    ),
    "attention": net(bodies.split_attention, 18, **QKV),
    "attention_fused": net(bodies.fused_attention, 18, **FUSED),
    "attention_cosine": net(
        bodies.cosine_attention,
        18,
        **FUSED,
        table=parameter(127, 2),
        places=bodies.distances,
    ),
    "attention_grouped_query": net(
        bodies.grouped_query_attention, 16, q=dense(), k=dense(8, 4), v=dense(8, 4), proj=dense()
    ),
    "attention_batched_heads": net(bodies.batched_heads_attention, 18, **QKV),
    "attention_normalised_heads": net(
        bodies.normalised_heads, 18, **FUSED, norm_q=lambda: nn.LayerNorm(4), norm_k=lambda: nn.LayerNorm(4)
    ),
    "attention_of_torch": net(
        bodies.torch_attention, 18, attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True)
    ),
    "encoder_layer_of_torch": net(
        lambda m, x: bodies.features(m.a(bodies.tokens(x))),
        2 + 12,
        a=lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
    ),
    "transformer_block": net(
        bodies.transformer_block,
        12,
        token=parameter(1, 1, 8),
        places=parameter(1, 65, 8),
        scale=parameter(8),
        up=dense(8, 12),
        down=dense(12, 8),
        ln=lambda: nn.LayerNorm(8),
        last=lambda: nn.LayerNorm(8),
    ),
    "embedding": net(bodies.embedded_places, 8, places=lambda: nn.Embedding(64, 8)),
    "window_shift": net(bodies.window_shift, 28, a=dense(8, 12), b=dense(12, 8)),
    "lstm": net(bodies.lstm, 8, a=conv(), lstm=lambda: nn.LSTM(8, 8, batch_first=True)),
    # joining, splitting, moving
    "concat": net(lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), 24, a=conv(), b=conv(16, 8)),
    "concat_add": net(lambda m, x: torch.cat([x, m.a(x)], 1) + m.b(x), 16, out=16, a=conv(), b=conv(8, 16)),
    "upsample_concat": net(
        lambda m, x: torch.cat(
            [functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2), m.a(x)], 1
        ),
        16,
        out=16,
        a=conv(),
    ),
    "u_net": net(
        bodies.u_net, 30, down=conv(8, 6), up=lambda: nn.ConvTranspose2d(6, 8, 2, stride=2), join=conv(16, 8)
    ),
    "dense_block": net(
        bodies.dense_block,
        16,
        out=16,
        a=conv(8, 4),
        b=conv(12, 4),
        norm_a=lambda: nn.BatchNorm2d(8),
        norm_b=lambda: nn.BatchNorm2d(12),
    ),
    "stack": net(lambda m, x: torch.stack([x, m.a(x)], 1).sum(1), 8, a=conv()),
    "slices": net(lambda m, x: torch.cat([m.a(x[:, :3]), m.b(x[:, 3:])], 1), 16, a=conv(3, 4), b=conv(5, 4)),
    "overlapping_slices": net(
        lambda m, x: m.a(x[:, :5]) + m.b(x[:, 2:]), 8 + 4, out=4, a=conv(5, 4), b=conv(6, 4)
    ),
    "every_second_channel": net(lambda m, x: m.b(m.a(x)[:, ::2]), 16, a=conv(), b=conv(4, 8)),
    "focus": net(
        lambda m, x: m.a(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)),
        16,
        a=conv(32, 8),
    ),
    "chunk_branch_concat": net(bodies.chunk_branch_concat, 12, a=conv(4, 4)),
    "split_sizes": net(bodies.split_sizes, 3 + 4 + 4, a=conv(4, 4)),
    "uneven_chunks": net(bodies.uneven_chunks, 3 + 2 + 6, out=6, a=conv(3, 6), b=conv(2, 6)),
    "c2f": net(bodies.c2f, 28, a=conv(), b=conv(4, 4), c=conv(4, 4), d=conv(12, 8)),
    "channel_shuffle": net(lambda m, x: functional.channel_shuffle(m.a(x), 2) + x, 16 - 12, a=conv()),
    "channel_shuffle_by_view": net(lambda m, x: m.b(bodies.shuffled(m.a(x), 2)), 20, a=conv(), b=conv()),
    "channel_shuffle_grouped": net(
        lambda m, x: m.b(bodies.shuffled(m.a(x), 4)), 12, a=conv(8, 16, groups=2), b=conv(16, 8)
    ),
    "pixel_shuffle": net(lambda m, x: functional.pixel_shuffle(m.a(x), 2), 12, out=4, a=conv(8, 16)),
    "pixel_unshuffle": net(lambda m, x: m.a(functional.pixel_unshuffle(x, 2)), 16, a=conv(32, 8)),
    "unfold": net(lambda m, x: m.a(functional.unfold(m.b(x), 2)), 24, a=conv_1d(32, 8), b=conv()),
    "windows": net(
        lambda m, x: m.b(m.a(x).unfold(2, 2, 2).unfold(-2, 3, 1).flatten(2)), 24, a=conv(), b=conv_1d(8, 8)
    ),
    "windows_of_channels": net(lambda m, x: m.a(x).unfold(1, 2, 2).flatten(2), 8, out=4, a=conv()),
    "fold": net(
        lambda m, x: functional.fold(m.a(functional.unfold(x, 2)), SIDE, 2), 8 + 4, out=4, a=conv_1d(32, 16)
    ),
    "padded_shortcut": net(bodies.padded_shortcut, 16, out=16, a=conv(8, 16, stride=2)),
    "padded_concat": net(
        lambda m, x: m.a(
            aten.constant_pad_nd(functional.pad(x, (1, 1, 1, 1, 1, 1), value=0.5), (0, 0, 0, 0, 1, 2))
        ),
        8 + 5 + 8,
        a=conv(13, 8),
    ),
    "flatten": net(lambda m, x: m.a(x.flatten(1))[..., None], 20, out=12, a=dense(8 * SIDE * SIDE, 12)),
    "unflatten": net(lambda m, x: x.unflatten(1, (2, 4)).flatten(1, 2), 4),
    "unflatten_sum": net(lambda m, x: m.a(x).unflatten(1, (2, 4)).sum(1), 12, out=4, a=conv()),
    "folded_batch": net(bodies.folded_batch, 4, a=conv(4, 4)),
    "repeat": net(lambda m, x: m.a(x.repeat(1, 2, 1, 1)), 16, a=conv(16, 8)),
    "flip": net(lambda m, x: m.a(x) + x.flip(1), 8, a=conv()),
    "roll_channels": net(lambda m, x: m.a(x).roll(1, 1), 8, a=conv()),
    "squeeze": net(
        lambda m, x: m.a(x.mean((2, 3), keepdim=True).squeeze((2, 3)))[:, :, None].unsqueeze(-1).squeeze(2),
        16,
        a=dense(),
    ),
    "squeeze_all": net(
        lambda m, x: m.a(x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1).unsqueeze(1)).transpose(1, 2),
        16,
        a=dense(),
    ),
    "select": net(lambda m, x: m.a(x)[:, :, 0] * m.a(x).select(1, 0)[:, None, 0], 8, a=conv()),
    "transposed_matrix": net(
        lambda m, x: (m.p @ x.mean((2, 3)).t()).t()[..., None], 14, out=6, p=parameter(6, 8)
    ),
    "slice_scatter": net(
        lambda m, x: torch.slice_scatter(m.a(x), m.b(x), 1, 2, 5), 16, a=conv(), b=conv(8, 3)
    ),
    "written_in_place": net(bodies.in_place, 8, a=conv()),
    "written_channels": net(bodies.channels_in_place, 6 + 8, a=conv()),
    # pooling and reducing
    "pools": net(
        lambda m, x: functional.adaptive_max_pool2d(
            functional.avg_pool2d(functional.max_pool2d(m.a(x), 2, 1), 2, 1), 2
        ),
        16,
        a=conv(),
    ),
    "pools_1d": net(
        lambda m, x: functional.adaptive_avg_pool1d(
            functional.avg_pool1d(functional.max_pool1d(bodies.line(m.a(x)), 2), 2), 2
        ),
        16,
        a=conv(),
    ),
    "pool_with_indices": net(
        lambda m, x: functional.max_pool2d(m.a(x), 2, return_indices=True)[0], 16, a=conv()
    ),
    "resized": net(
        lambda m, x: functional.interpolate(
            functional.interpolate(m.a(x), size=6, mode="bilinear"), size=9, mode="bicubic"
        ),
        16,
        a=conv(),
    ),
    "padded_space": net(
        lambda m, x: aten.replication_pad2d(
            aten.reflection_pad2d(functional.pad(m.a(x), (1, 1, 1, 1), "reflect"), (1, 1, 1, 1)), (1, 1, 1, 1)
        ),
        16,
        a=conv(),
    ),
    "reductions": net(
        lambda m, x: (
            m.a(x * x.sum((2, 3), keepdim=True) + x.amin((2, 3), keepdim=True)).max(3)[0].min(2)[0][..., None]
        ),
        16,
        a=conv(),
    ),
    "spread": net(
        lambda m, x: (
            (m.a(x).var((2, 3)) + m.b(x).var((2, 3), correction=0))[..., None] * (1 + x.mean() + x.sum())
        ),
        8,
        a=conv(),
        b=conv(),
    ),
    "mean_of_all": net(lambda m, x: x * m.a(x).mean(), 8, a=conv()),
    "sum_of_all": net(lambda m, x: x * m.a(x).sum(), 8, a=conv()),
    "largest_channel": net(lambda m, x: x * m.a(x).amax(1, keepdim=True), 8, a=conv()),
    **{
        f"{name}_along_channels": net(bodies.along_channels(op), 8, out=out, a=conv())
        for name, (op, out) in {
            "avg_pool2d": (lambda x: functional.avg_pool2d(x, 2), 32 * 4),
            "max_pool2d": (lambda x: functional.max_pool2d(x, 2), 32 * 4),
            "adaptive_pool2d": (lambda x: functional.adaptive_avg_pool2d(x, 4), 16),
            "nearest": (lambda x: functional.interpolate(x, size=4), 16),
            "bilinear": (lambda x: functional.interpolate(x, size=4, mode="bilinear"), 16),
            "bicubic": (lambda x: functional.interpolate(x, size=4, mode="bicubic"), 16),
            "reflection": (lambda x: aten.reflection_pad2d(x, (1, 1, 0, 0)), 640),
            "replication": (lambda x: aten.replication_pad2d(x, (1, 1, 0, 0)), 640),
            "avg_pool1d": (lambda x: functional.avg_pool1d(x[:, 0], 2), 256),
            "max_pool1d": (lambda x: functional.max_pool1d(x[:, 0], 2), 256),
            "adaptive_pool1d": (lambda x: functional.adaptive_avg_pool1d(x[:, 0], 2), 128),
        }.items()
    },
    "no_rule": net(lambda m, x: m.b(torch.cumsum(m.a(x), 2)), 16, a=conv(), b=conv()),
}
