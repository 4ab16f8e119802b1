"""Rules of the user's own, for ops that have none or to overrule ours.

    # rules.py
    from edgeprune.channels.products import pointwise

    RULES = {"mylib.my_activation.default": pointwise}

A rule is a function of the node and the ties; it states what is tied and gives the node's factors (see
layers.py, products.py and shapes.py for ours, which can be reused). A wrong one shows: a build compares the
pruned network with the masked one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from edgeprune.channels.reading import Op, Rule
from edgeprune.channels.ties import Ties
from edgeprune.errors import EdgepruneError, InputError, ModelError


def user_rules(given: object, where: str) -> dict[Op, Rule]:
    """Op -> rule, from a dictionary whose keys are ops or their names as reports print them.

    Args:
        given: What the user's file holds.
        where: Its name, for messages.

    Raises:
        InputError: it is no such dictionary, or an op does not exist.
    """
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise InputError(f"{where} is {kind}; give a dictionary: op or its name -> rule.")
    for rule in given.values():
        if not callable(rule):
            raise InputError(f"{where}: {rule!r} is no rule; give a function of the node and the ties.")
    return {_op(key, where): rule for key, rule in given.items()}


def _op(key: object, where: str) -> Op:
    if not isinstance(key, str):
        return key
    found: object = torch.ops
    for part in key.removeprefix("torch.ops.").split("."):
        found = getattr(found, part, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise InputError(
            f"{where}: there is no op {key}; write it as the report does, like aten.cumsum.default."
        )
    return found


def apply_own(rule: Rule, node: fx.Node, ties: Ties) -> None:
    """Apply a rule of the user's own to a node.

    Raises:
        ModelError: it failed.
    """
    try:
        rule(node, ties)
    except EdgepruneError:
        raise
    except Exception as err:  # user code: anything may come out
        lines = str(err).strip().splitlines() or ["no message"]
        raise ModelError(
            f"the rule for {node.target} failed at {node.name}: {type(err).__name__}: {lines[0][:200]}."
        ) from err
