"""Bodies of the tiny networks: `m` is the network with its layers, `x` its features (N, 8, 8, 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten
Body = Callable[[Any, Tensor], Tensor]  # Any: the network, with layers of any name


def tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C)."""
    return x.flatten(2).transpose(1, 2)


def features(x: Tensor) -> Tensor:
    """(N, L, C) -> (N, C, L)."""
    return x.transpose(1, 2)


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    gate: Tensor = torch.sigmoid(m.b(torch.relu(m.a(functional.adaptive_avg_pool2d(x, 1)))))
    return x * gate.expand_as(x)


def spatial_gate(m: Any, x: Tensor) -> Tensor:
    """CBAM: the mean and the maximum over channels make one gate for all."""
    x = m.a(x)
    both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * torch.sigmoid(m.gate(both))


def efficient_channel_attention(m: Any, x: Tensor) -> Tensor:
    """ECA: a convolution that runs along the channels."""
    x = m.a(x)
    gate = m.gate(x.mean((2, 3)).unsqueeze(1))
    return x * torch.sigmoid(gate).transpose(1, 2).unsqueeze(-1)


def selective_kernel(m: Any, x: Tensor) -> Tensor:
    """SK: a softmax over two branches, per channel."""
    branches = torch.stack([m.a(x), m.b(x)], 1)
    squeezed = torch.relu(m.squeeze(branches.sum(1).mean((2, 3))))
    gate = torch.stack([m.gate_a(squeezed), m.gate_b(squeezed)], 1).softmax(1)
    return (branches * gate[:, :, :, None, None]).sum(1)


def glu_by_chunk(m: Any, x: Tensor) -> Tensor:
    values, gate = m.a(x).chunk(2, 1)
    gated: Tensor = values * torch.sigmoid(gate)
    return gated


def chunk_branch_concat(m: Any, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([first, m.a(second)], 1)


def split_sizes(m: Any, x: Tensor) -> Tensor:
    """The first piece is one channel, which has to stay."""
    one, three, four = x.split([1, 3, 4], 1)
    return torch.cat([m.a(four), three, one], 1)


def uneven_chunks(m: Any, x: Tensor) -> Tensor:
    first, second, third = x.chunk(3, 1)
    joined: Tensor = m.a(first) + m.a(second) + m.b(third)
    return joined


def c2f(m: Any, x: Tensor) -> Tensor:
    """YOLOv8's block: chunk, residual branch on the second half, all of it joined."""
    parts = list(m.a(x).chunk(2, 1))
    parts.append(m.c(torch.relu(m.b(parts[-1]))) + parts[-1])
    joined: Tensor = m.d(torch.cat(parts, 1))
    return joined


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def padded_shortcut(m: Any, x: Tensor) -> Tensor:
    return m.a(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


def split_attention(m: Any, x: Tensor) -> Tensor:
    """Hand-written attention, two heads of width 4, separate projections."""
    x = tokens(x)
    q, k, v = (layer(x).view(x.shape[0], -1, 2, 4).transpose(1, 2) for layer in (m.q, m.k, m.v))
    weights = (q @ k.transpose(-2, -1) * 4**-0.5).softmax(-1)
    return features(m.proj(torch.matmul(weights, v).transpose(1, 2).reshape(x.shape)))


def fused_attention(m: Any, x: Tensor) -> Tensor:
    """One projection gives query, key and value."""
    x = tokens(x)
    q, k, v = m.qkv(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(q, k, v)
    return features(m.proj(mixed.transpose(1, 2).flatten(2)))


def grouped_query_attention(m: Any, x: Tensor) -> Tensor:
    """Two heads of the query share each head of keys and values."""
    x = tokens(x)
    q, k, v = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return features(m.proj(y.transpose(1, 2).flatten(2)))


def cosine_attention(m: Any, x: Tensor) -> Tensor:
    """Swin V2: queries and keys of length 1, a bias per head from a table."""
    x = tokens(x)
    q, k, v = m.qkv(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-2, -1)
    bias = m.table[m.places].view(64, 64, 2).permute(2, 0, 1)
    mixed = (scores + bias.unsqueeze(0)).softmax(-1) @ v
    return features(m.proj(mixed.transpose(1, 2).flatten(2)))


def distances() -> Tensor:
    """Row of the table for each pair of 64 tokens."""
    return (torch.arange(64)[:, None] - torch.arange(64)[None] + 63).flatten()


def batched_heads_attention(m: Any, x: Tensor) -> Tensor:
    """Heads folded into the batch, as `bmm` wants them."""
    x = tokens(x)
    n = x.shape[0]
    q, k, v = (layer(x).view(n, -1, 2, 4).transpose(1, 2).reshape(n * 2, -1, 4) for layer in (m.q, m.k, m.v))
    mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return features(m.proj(mixed.view(n, 2, -1, 4).transpose(1, 2).reshape(n, -1, 8)))


def normalised_heads(m: Any, x: Tensor) -> Tensor:
    x = tokens(x)
    q, k, v = m.qkv(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(m.norm_q(q), m.norm_k(k), v)
    return features(m.proj(mixed.transpose(1, 2).flatten(2)))


def torch_attention(m: Any, x: Tensor) -> Tensor:
    x = tokens(x)
    mixed: Tensor = m.attention(x, x, x, need_weights=False)[0]
    return features(mixed)


def transformer_block(m: Any, x: Tensor) -> Tensor:
    """Class token, positions, pre-norm, layer scale."""
    x = tokens(x)
    x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.places
    x = x + m.scale * m.down(functional.gelu(m.up(m.ln(x))))
    return features(m.last(x)[:, :1])


def embedded_places(m: Any, x: Tensor) -> Tensor:
    return features(tokens(x) + m.places(torch.arange(64)))


def window_shift(m: Any, x: Tensor) -> Tensor:
    """Swin: windows of 4x4, shifted, and back."""
    x = torch.roll(x.permute(0, 2, 3, 1), (2, 2), (1, 2))
    n = x.shape[0]
    x = x.view(n, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(n * 4, 16, 8)
    x = m.b(torch.relu(m.a(x)))
    x = x.view(n, 2, 2, 4, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(n, 8, 8, 8)
    return torch.roll(x, (-2, -2), (1, 2)).permute(0, 3, 1, 2)


def u_net(m: Any, x: Tensor) -> Tensor:
    inner = m.up(torch.relu(m.down(functional.max_pool2d(x, 2))))
    joined: Tensor = m.join(torch.cat([x, inner], 1))
    return joined


def dense_block(m: Any, x: Tensor) -> Tensor:
    for layer, norm in ((m.a, m.norm_a), (m.b, m.norm_b)):
        x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
    return x


def filled(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) + torch.ones_like(x) + torch.full_like(x, 2) + aten.fill(x, 0.5) + aten.zero(x)
    return y + x.new_zeros(1) + x.new_ones(1) + x.new_full((1,), 3.0)


def without_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = m.a(x)
    joined: Tensor = m.b(x)
    return joined


def in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, :, 2:4] = x[:, :, 2:4]
    return y


def channels_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y[:, 2:4] = x[:, 2:4]
    return y


def weight_standardised(m: Any, x: Tensor) -> Tensor:
    """Weights of mean 0 and variance 1 for each output channel, then a gain."""
    weight = m.a.weight
    flat = functional.batch_norm(weight.reshape(1, len(weight), -1), None, None, training=True)
    return functional.conv2d(x, flat.reshape_as(weight) * m.gain, m.a.bias)


def lstm(m: Any, x: Tensor) -> Tensor:
    return features(m.lstm(tokens(m.a(x)))[0])


def folded_batch(m: Any, x: Tensor) -> Tensor:
    n = x.shape[0]
    return m.a(x.view(n * 2, 4, 8, 8)).view(n, 8, 8, 8)


def along_channels(op: Callable[[Tensor], Tensor]) -> Body:
    """An op over space, where space is tokens and channels: (N, 1, 64, 8)."""
    return lambda m, x: op(tokens(m.a(x)).unsqueeze(1)).flatten(1)[..., None]


def constant(m: Any, x: Tensor) -> Tensor:
    return x * torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])[:, None, None]


def volume(x: Tensor) -> Tensor:
    return x.unsqueeze(2)


def line(x: Tensor) -> Tensor:
    return x.flatten(2)
