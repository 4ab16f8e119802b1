"""The smaller network as an object: made, saved and made again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgeprune import channels, surgery
from edgeprune.copying import copied
from edgeprune.errors import InputError
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.options import Images, PruneOptions
from edgeprune.pipeline.pruning import Analysed, Found, analyse, as_labelled, find_units
from edgeprune.records import Floats, InputSpec, Ints, Pruning
from edgeprune.report import notebook
from edgeprune.runfolder import writing
from edgeprune.untrusted import read_json

PLAN_FORMAT = "edgeprune-plan/1"
EXAMPLE_BATCH = 2
"""Any size above 1 lets torch.export leave the batch axis free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """How the channels of a network were grouped: with heads cut in width, with rules of the user's own, and
    why the answer is partial, where it is.
    """

    head_width: bool = False
    own_rules: bool = False
    stopped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrunedModel:
    """The smaller network, and why it is as it is.

    Attributes:
        module: In evaluation mode, ready to run, fine-tune, export or prune again.
        own_class: Whether `module` is of the dense network's class; else it is the traced graph.
        reason: Why it is the graph.
        batch: The only batch size that the dense network could be traced with; None: any.
        kept: Parameter or buffer -> axis -> indices of the dense network that stayed.
        coupling: How its channels were grouped, for `load`.
    """

    module: nn.Module
    own_class: bool
    reason: str
    pruning: Pruning
    spec: InputSpec
    batch: int | None
    kept: dict[str, dict[int, Tensor]]
    coupling: Grouped

    def save(self, folder: Path | str) -> tuple[Path, ...]:
        """Write pruned.pt2 (loads without the class), plan.json and weights.safetensors.

        `edgeprune.load(folder, dense_module)` makes the pruned module again from a fresh dense one.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        folder = Path(folder)
        plan = {
            "format": PLAN_FORMAT,
            "input_shape": self.spec.shape,
            "coupling": asdict(self.coupling),
            "plan": asdict(self.pruning.plan),
            "kept": {n: {str(a): i.tolist() for a, i in axes.items()} for n, axes in self.kept.items()},
        }
        # Written from memory: on a full disk torch's own file writer takes the whole process down.
        program = BytesIO()
        torch.export.save(self._exported(), program)
        weights = {name: tensor.contiguous().clone() for name, tensor in self.module.state_dict().items()}
        contents = {
            "plan.json": json.dumps(plan, indent=1).encode(),
            "weights.safetensors": save(weights),
            "pruned.pt2": program.getvalue(),
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        return tuple(folder / name for name in contents)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        kind = type(self.module).__name__ if self.own_class else "the traced graph"
        count = sum(parameter.numel() for parameter in self.module.parameters())
        return notebook.pruning_card(self.pruning, f"PrunedModel: {kind}, {count:,} parameters")

    def _exported(self) -> torch.export.ExportedProgram:
        example = torch.zeros(self.batch or EXAMPLE_BATCH, *self.spec.shape)
        shapes = None if self.batch else ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(self.module, (example,), dynamic_shapes=shapes)


def make_pruned(analysed: Analysed, found: Found) -> PrunedModel:
    """Cut the units out, and give the layers their new weights."""
    pruning, removed = found.pruning, found.pruning.plan.removed
    graph = channels.cut(analysed.coupling, removed, found.weights)
    kept = channels.kept_indices(analysed.coupling, removed)
    traced = analysed.traced
    module = with_weights(analysed.module, found.weights)
    operated = surgery.operate(module, kept, graph, traced.spec, batch=traced.batch)
    return PrunedModel(
        module=operated.module,
        own_class=operated.own_class,
        reason=operated.reason,
        pruning=pruning,
        spec=traced.spec,
        batch=traced.batch,
        kept=kept,
        coupling=Grouped(
            head_width=analysed.head_width,
            own_rules=analysed.own_rules,
            stopped=analysed.coupling.stopped,
        ),
    )


def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network with new values for some of its parameters and buffers."""
    if not weights:
        return module
    module = copied(module)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, value in weights.items():
        tensors[name].data.copy_(value)
    return module


def prune(  # noqa: PLR0913  # what a notebook has at hand
    model: nn.Module,
    calibration: tuple[Floats | Tensor, Ints | Tensor],
    *,
    class_names: Sequence[str] | None = None,
    validation: tuple[Floats | Tensor, Ints | Tensor] | None = None,
    options: PruneOptions | None = None,
    rules: Mapping[Any, channels.Rule] | None = None,  # Any: an op, or its name
) -> PrunedModel:
    """Remove the channels that a causal analysis shows a classifier does not need (C-SWAP).

    Args:
        model: Trained network; gives class scores (N, K) for images (N, C, H, W). Untouched.
        calibration: Preprocessed images (N, C, H, W) and labels (N,): not the ones you evaluate on.
        class_names: For the log; default: the numbers.
        validation: Images and labels that decide on `options.max_accuracy_drop`.
        options: How far to go.
        rules: Coupling rules of your own, op or its name -> function of the node and the ties: for ops that
            have none, or to overrule ours.

    Raises:
        ModelError, DataError, InputError, NothingToPrune: with what to do about it.
    """
    labelled, options = as_labelled(calibration), options or PruneOptions()
    own = channels.user_rules(rules or {}, "rules")
    analysed = analyse(model, InputSpec(shape=labelled.images.shape[1:]), options, own)
    images = Images(
        calibration=labelled,
        names=class_names or [str(k) for k in range(int(labelled.labels.max()) + 1)],
        validation=None if validation is None else as_labelled(validation),
    )
    return make_pruned(analysed, find_units(analysed, images, options))


def load(
    folder: Path | str, model: nn.Module, *, rules: Mapping[Any, channels.Rule] | None = None
) -> nn.Module:
    """Make a saved pruned network again from a dense one; runs no code from the files.

    Args:
        folder: Holds plan.json and weights.safetensors, as `PrunedModel.save` wrote them.
        model: A dense network; its weights do not matter. Untouched.
        rules: The coupling rules of your own that it was pruned with, if any.

    Raises:
        InputError: the plan is damaged, or of another network (the first difference is named).
    """
    folder = Path(folder)
    saved = read_saved(folder)
    if saved.coupling.own_rules and not rules:
        raise InputError(f"{folder}: pruned with coupling rules of your own; give them: rules=...")
    spec, weights = saved.spec, saved.weights
    options = PruneOptions(head_width=saved.coupling.head_width)
    analysed = analyse(model, spec, options, channels.user_rules(rules or {}, "rules"))
    removed = removed_units(saved, analysed.coupling, folder)
    graph = channels.cut(analysed.coupling, removed)
    kept = channels.kept_indices(analysed.coupling, removed)
    module = surgery.operate(model, kept, graph, spec, batch=analysed.traced.batch).module
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    other = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != other:
        names = shapes | other
        first = next(name for name in names if shapes.get(name) != other.get(name))
        raise InputError(f"{folder / 'weights.safetensors'}: made for another network: {first} does not fit.")
    module.load_state_dict(weights)
    return module


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """What `PrunedModel.save` wrote."""

    removed: dict[str, tuple[int, ...]]
    kept: dict[str, dict[int, list[int]]]
    spec: InputSpec
    coupling: Grouped
    weights: dict[str, Tensor]


def read_saved(folder: Path) -> Saved:
    """Read plan.json and weights.safetensors.

    Raises:
        InputError: they are not there, or damaged.
    """
    try:
        content = read_json(folder / "plan.json")
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        if content["format"] != PLAN_FORMAT:
            raise ValueError(f"format {content['format']!r} is not {PLAN_FORMAT}")
        channel_count, height, width_ = map(int, content["input_shape"])
        return Saved(
            removed={str(n): tuple(map(int, units)) for n, units in content["plan"]["removed"].items()},
            kept={
                str(name): {int(axis): list(map(int, left)) for axis, left in axes.items()}
                for name, axes in content["kept"].items()
            },
            spec=InputSpec(shape=(channel_count, height, width_)),
            coupling=Grouped(**content.get("coupling", {})),
            weights=load_file(folder / "weights.safetensors"),
        )
    except (
        OSError,
        SafetensorError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ) as err:
        raise InputError(f"{folder}: no readable plan ({err}); save the pruned network again.") from err


def removed_units(saved: Saved, coupling: channels.Coupling, folder: Path) -> Removed:
    """The units that a plan removes from a network.

    Raises:
        InputError: the plan was made for another network; the first difference is named.
    """
    where = f"{folder / 'plan.json'}: made for another network"
    removed = saved.removed
    if saved.coupling.stopped:  # its groups were those of a part of the network: the indices tell
        removed = channels.removed_by(saved.kept, coupling)
    sizes = {group.name: group.units for group in coupling.groups}
    for name, units in removed.items():
        if name not in sizes:
            raise InputError(f"{where}: it has no group {name}.")
        if not all(0 <= unit < sizes[name] for unit in units) or len(set(units)) >= sizes[name]:
            raise InputError(f"{where}: {name} has {sizes[name]} units.")
    kept = {
        name: {axis: left.tolist() for axis, left in axes.items()}
        for name, axes in channels.kept_indices(coupling, removed).items()
    }
    if kept != saved.kept:
        first = next(name for name in {**saved.kept, **kept} if kept.get(name) != saved.kept.get(name))
        raise InputError(f"{where}: the channels of {first} are coupled otherwise.")
    return removed
