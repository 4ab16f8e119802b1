"""A traced graph whose gradients are relevances: every op runs under a rule of zennit.

zennit hooks modules; here each op of the functional graph becomes one for the time of a run, so that
residual sums and products written in a `forward` are attributed like any layer. The rules:

- convolution: αβ with α = 1, β = 0 (`ZPlus`; Bach et al. 2015), BatchNorm folded into it where it follows;
  where a grouped one has no positive part (a depthwise kernel of one sign under a positive bias), the
  negative part is shared out instead: MobileNetV2 lost nearly all of its relevance there
- linear layer, sum of two tensors, mean, resizing: ε = 1e-6 (`Epsilon`, `Norm`)
- LayerNorm and its like, BatchNorm right after a sum: ε, their statistics constants (Ali et al. 2022)
- activation, any other BatchNorm: passes through unchanged (`Pass`)
- maximum: to the winner; reshaping, joining, choosing: along with the values
- product of two activations: half to each (Achtibat et al. 2024, AttnLRP)
- softmax (attention weights), norms and divisors: constants, relevance goes past them (Ali et al. 2022)

A bias keeps its share in the ε rules, where dividing by what is left without it explodes in transformers,
and gets none from convolutions, whose positive parts are safe. What a convolution makes of zeros alone is
its bias: relevance that arrives there ends there (MobileNetV2 again).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves
from zennit.core import BasicHook, Hook, stabilize
from zennit.layer import Sum
from zennit.rules import ClampMod, Epsilon, Norm, Pass, ZPlus

from edgeprune.criteria.reading import CONVOLUTIONS, TRANSPOSED, Reading, arguments
from edgeprune.criteria.running import Runner, Touch
from edgeprune.errors import ModelError

aten = torch.ops.aten
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
Op = Any  # torch's OpOverload is not typed
Values = dict[str, Any]
"""An op's arguments by schema name: tensors, numbers, lists."""

EPSILON = 1e-6


def plus_or_minus() -> BasicHook:
    """αβ with α = 1, β = 0, and the negative part where there is no positive one."""

    def share(relevance: Tensor, outputs: list[Tensor]) -> list[Tensor]:
        positive, negative = outputs[0] + outputs[1], outputs[2] + outputs[3]
        some = positive > EPSILON
        return [relevance * some / stabilize(positive)] * 2 + [relevance * ~some / stabilize(negative)] * 2

    no_bias = {"zero_params": ["bias"]}
    return BasicHook(
        input_modifiers=[_plus, _minus, _plus, _minus],
        param_modifiers=[
            ClampMod(**sign, **no_bias) for sign in ({"min": 0}, {"max": 0}, {"max": 0}, {"min": 0})
        ],
        output_modifiers=[lambda output: output] * 4,
        gradient_mapper=share,
    )


def _plus(value: Tensor) -> Tensor:
    return value.clamp(min=0)


def _minus(value: Tensor) -> Tensor:
    return value.clamp(max=0)


def _rule(op: Op, *, grouped: bool) -> Hook:
    if op is aten.linear.default:
        return Epsilon(EPSILON)
    return plus_or_minus() if grouped else ZPlus(EPSILON, zero_params=["bias"])


class Layer(nn.Module):
    """One run of an op as a module of one input; weight and bias, if it has them, are parameters."""

    def __init__(self, function: Callable[..., Tensor], **tensors: Tensor | None) -> None:
        super().__init__()
        self.function = function
        self.names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor))

    def forward(self, value: Tensor) -> Tensor:
        return self.function(value, **{name: getattr(self, name) for name in self.names})


class Propagation(Runner):
    """Runs the graph with the same result; gradients that pass back through it are relevances."""

    def __init__(
        self,
        graph: fx.GraphModule,
        readings: Iterable[Reading],
        touch: Touch,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(graph, readings, touch, weights)
        self._folded = {n.args[0]: n for n in graph.graph.nodes if _folds(n)}
        self._hooks: list[Hook] = []

    def forget(self) -> None:
        """Let go of what the rules keep of a run."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def run_node(self, n: fx.Node) -> Any:  # Any: as torch types it
        if n.op != "call_function":
            return super().run_node(n)
        op: Op = n.target
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        moving = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor) and v.requires_grad]
        if not moving or op in MOVED:
            return self.call_function(op, args, kwargs)
        if op is BATCH_NORM and self._folded.get(n.args[0]) is n:
            return (args[0],)
        rule = RULES.get(op)
        if rule is None and torch.Tag.pointwise in op.tags and len(moving) == 1:
            rule = Propagation._passed
        if rule is None:
            raise ModelError(f"lrp: no relevance rule for {op} ({n.name}); choose another criterion.")
        names = [argument.name for argument in op._schema.arguments]
        return rule(self, n, {**dict(zip(names, args, strict=False)), **kwargs})

    def _through(self, hook: Hook, module: nn.Module, value: Tensor) -> Tensor:
        hook.register(module)
        self._hooks.append(hook)
        result: Tensor = module(value)
        return result

    def _weighted(self, n: fx.Node, given: Values) -> Tensor:
        """A layer with a weight; a BatchNorm behind it is folded into it."""
        op: Op = n.target
        weight, bias = given.pop("weight"), given.pop("bias", None)
        if n in self._folded:
            weight, bias = self._fold(n, weight, bias)
        data = given.pop("input")
        rule = _rule(op, grouped=given.get("groups", 1) > 1)
        return self._through(
            rule, Layer(lambda x, **w: op(input=x, **w, **given), weight=weight, bias=bias), data
        )

    def _fold(self, n: fx.Node, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution or linear layer and the BatchNorm behind it."""
        norm = arguments(self._folded[n])

        def value(name: str) -> Tensor:
            # The norm's tensors may come later in the graph than the layer.
            node = norm[name]
            assert isinstance(node, fx.Node)
            found: Tensor = self.get_attr(node.target, (), {})
            return found

        scale = torch.rsqrt(value("running_var") + float(str(norm["eps"])))
        scale = scale if norm["weight"] is None else scale * value("weight")
        shift = -value("running_mean") * scale + (0.0 if norm["bias"] is None else value("bias"))
        axis = 1 if n.target in TRANSPOSED else 0
        shape = [-1 if d == axis else 1 for d in range(weight.ndim)]
        return weight * scale.reshape(shape), shift if bias is None else bias * scale + shift

    def _batch_norm(self, n: fx.Node, given: Values) -> tuple[Tensor]:
        """One that no layer took in."""
        op: Op = n.target
        fixed = op is BATCH_NORM  # else its statistics are those of the batch
        after_sum = fixed and isinstance(n.args[0], fx.Node) and n.args[0].target in SUMS
        value, *rest = given.values()
        layer = Layer(lambda x: op(x, *rest)[0])
        return (self._through(Norm() if after_sum else Pass(), layer, value),)

    def _normalised(self, n: fx.Node, given: Values) -> Tensor:
        return self._through(Norm(), Layer(with_fixed_spread(n.target, given)), given["input"])

    def _sum(self, n: fx.Node, given: Values) -> Tensor:
        """Relevance is shared out by the parts of the sum."""
        sign = -1 if n.target is aten.sub.Tensor else 1
        one, other = map(torch.as_tensor, (given["self"], given["other"]))
        other = (other * (sign * given.get("alpha", 1))).to(one.dtype)
        shape = (one + other).shape
        return self._through(Norm(), Sum(dim=-1), torch.stack([one.expand(shape), other.expand(shape)], -1))

    def _product(self, n: fx.Node, given: Values) -> Tensor:
        """Linear in each factor that moves; what moves twice gets a share from either side."""
        op: Op = n.target
        names = [name for name, value in given.items() if isinstance(value, Tensor) and value.requires_grad]
        return _mean([self._linear(op, given, name) for name in names])

    def _einsum(self, n: fx.Node, given: Values) -> Tensor:
        op: Op = n.target
        fixed = [tensor.detach() for tensor in given["tensors"]]
        found = []
        for place, tensor in enumerate(given["tensors"]):
            before, after = fixed[:place], fixed[place + 1 :]
            layer = Layer(lambda x, b=before, a=after: op(given["equation"], [*b, x, *a]))
            found += [self._through(Norm(), layer, tensor)] if tensor.requires_grad else []
        return _mean(found)

    def _gated(self, n: fx.Node, given: Values) -> Tensor:
        """Half of the channels times the sigmoid of the others."""
        value, gate = given["self"].chunk(2, given.get("dim", -1))
        gate = self._through(Pass(), Layer(torch.sigmoid), gate)
        factors = {"self": value, "other": gate}
        return _mean([self._linear(aten.mul.Tensor, factors, name) for name in factors])

    def _divided(self, n: fx.Node, given: Values) -> Tensor:
        return self._linear(n.target, given, "self")

    def _attended(self, n: fx.Node, given: Values) -> Tensor:
        return self._linear(n.target, given, "value")

    def _pooled(self, n: fx.Node, given: Values) -> Tensor:
        return self._linear(n.target, given, next(iter(given)))

    def _linear(self, op: Op, given: Values, name: str) -> Tensor:
        """One argument moves, the others are constants."""
        if not (isinstance(given[name], Tensor) and given[name].requires_grad):
            return _call(op, given).detach()
        fixed = {key: v.detach() if isinstance(v, Tensor) else v for key, v in given.items() if key != name}
        return self._through(Norm(), Layer(lambda x: _call(op, {name: x, **fixed})), given[name])

    def _passed(self, n: fx.Node, given: Values) -> Tensor:
        """Relevance leaves as it came."""
        op: Op = n.target
        name = next(key for key, value in given.items() if isinstance(value, Tensor) and value.requires_grad)
        fixed = {key: value for key, value in given.items() if key != name}
        return self._through(Pass(), Layer(lambda x: _call(op, {name: x, **fixed})), given[name])

    def _constant(self, n: fx.Node, given: Values) -> Tensor:
        """No relevance, unless it is the network's answer."""
        if all(user.op == "output" for user in n.users):
            return self._passed(n, given)
        return _call(n.target, given).detach()

    def _same(self, n: fx.Node, given: Values) -> Tensor:
        """A `detach` in the network means its training."""
        value: Tensor = given["self"]
        return value


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(dim=0)


def _call(op: Op, given: Values) -> Tensor:
    """Run an op by schema names; `self` can only be given by place."""
    rest = {name: value for name, value in given.items() if name != "self"}
    result: Tensor = op(given["self"], **rest) if "self" in given else op(**rest)
    return result


def with_fixed_spread(op: Op, given: Values) -> Callable[[Tensor], Tensor]:
    """A LayerNorm or its like with the spread it has now as a constant."""
    value: Tensor = given["input"].detach()
    shape, dims = value.shape, tuple(range(-len(given.get("normalized_shape", (0,))), 0))
    if op is aten.group_norm.default:
        shape, dims = torch.Size((shape[0], given["num_groups"], -1)), (-1,)
    centre = op is not aten.rms_norm.default
    eps = given.get("eps")
    eps = (1e-5 if centre else torch.finfo(value.dtype).eps) if eps is None else eps

    def centred(x: Tensor) -> Tensor:
        x = x.reshape(shape)
        return x - x.mean(dims, keepdim=True) if centre else x

    scale = torch.rsqrt(centred(value).square().mean(dims, keepdim=True) + eps)
    across = [-1, *[1] * (value.ndim - 2)] if op is aten.group_norm.default else given["normalized_shape"]

    def function(x: Tensor) -> Tensor:
        x = (centred(x) * scale).reshape(value.shape)
        weight, bias = given.get("weight"), given.get("bias")
        x = x if weight is None else x * weight.reshape(across)
        return x if bias is None else x + bias.reshape(across)

    return function


def _folds(n: fx.Node) -> bool:
    """Whether a node is a BatchNorm that alone reads a layer with a weight."""
    if n.op != "call_function" or n.target is not BATCH_NORM:
        return False
    layer = n.args[0]
    assert isinstance(layer, fx.Node)
    grouped = layer.target in TRANSPOSED and arguments(layer).get("groups", 1) != 1
    image = layer.target is not aten.linear.default or layer.meta["val"].ndim == 2  # noqa: PLR2004  # (N, C)
    return layer.target in WEIGHTED and len(layer.users) == 1 and image and not grouped


SUMS = (aten.add.Tensor, aten.sub.Tensor)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default)

RULES: dict[Op, Callable[[Propagation, fx.Node, Values], Any]] = {
    **dict.fromkeys(WEIGHTED, Propagation._weighted),
    **dict.fromkeys(
        [BATCH_NORM, aten._native_batch_norm_legit.no_stats, aten._native_batch_norm_legit.default],
        Propagation._batch_norm,
    ),
    **dict.fromkeys(
        [aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default], Propagation._normalised
    ),
    aten.instance_norm.default: Propagation._passed,
    # sums and products
    **dict.fromkeys(SUMS, Propagation._sum),
    **dict.fromkeys([aten.mul.Tensor, aten.matmul.default, aten.bmm.default], Propagation._product),
    aten.mm.default: Propagation._product,
    aten.einsum.default: Propagation._einsum,
    aten.glu.default: Propagation._gated,
    aten.div.Tensor: Propagation._divided,
    aten.scaled_dot_product_attention.default: Propagation._attended,
    # means and resizing
    **dict.fromkeys([aten.mean.dim, aten.mean.default, aten.sum.dim_IntList], Propagation._pooled),
    **dict.fromkeys(
        [aten.sum.default, aten.avg_pool1d.default, aten.avg_pool2d.default], Propagation._pooled
    ),
    **dict.fromkeys(
        [aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default], Propagation._pooled
    ),
    **dict.fromkeys([aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec], Propagation._pooled),
    **dict.fromkeys([aten.upsample_bicubic2d.vec, aten.col2im.default], Propagation._pooled),
    # activations; those that torch calls pointwise need no row
    **dict.fromkeys([aten.hardswish.default, aten.hardsigmoid.default], Propagation._passed),
    **dict.fromkeys([aten.prelu.default, aten.log_softmax.int], Propagation._passed),
    # constants
    **dict.fromkeys([aten.softmax.int, aten._softmax.default], Propagation._constant),
    **dict.fromkeys([aten.var.dim, aten.var.correction], Propagation._constant),
    **dict.fromkeys([aten.linalg_vector_norm.default, aten.rsqrt.default], Propagation._constant),
    **dict.fromkeys([aten.sqrt.default, aten.reciprocal.default], Propagation._constant),
    **dict.fromkeys([aten.fill.Scalar, aten.zero.default], Propagation._constant),
    aten.detach.default: Propagation._same,
}
MOVED = {
    *(aten.view.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int, aten.t.default),
    *(aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
    *(
        aten.expand.default,
        aten.repeat.default,
        aten.clone.default,
        aten.alias.default,
        aten._to_copy.default,
    ),
    *(aten.cat.default, aten.stack.default, aten.slice.Tensor, aten.select.int, aten.unbind.int),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.index.Tensor, aten.slice_scatter.default),
    *(aten.flip.default, aten.roll.default, aten.pad.default, aten.constant_pad_nd.default),
    *(aten.reflection_pad2d.default, aten.replication_pad2d.default),
    *(aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default),
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool2d_with_indices.default),
    *(aten.adaptive_max_pool2d.default, aten.amax.default, aten.amin.default, aten.max.dim, aten.min.dim),
    *(aten.maximum.default, aten.minimum.default, aten.where.self, operator.getitem),
    *(aten.im2col.default, aten.unfold.default, aten.copy.default),
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
    *(aten.sym_size.int, aten._assert_tensor_metadata.default),
}
