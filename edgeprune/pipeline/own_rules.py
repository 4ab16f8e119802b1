"""Coupling rules of the user's own, as `--rules` names them."""

from __future__ import annotations

from edgeprune import channels, zoo
from edgeprune.pipeline.digests import digest, source

NAME = "RULES"
PYTHON = "python:"


def read_rules(named: str | None) -> channels.Rules:
    """Rules from `file.py` (its RULES) or `python:module:NAME`; runs that code, and none if nothing is named.

    Raises:
        ModelError, InputError: there is nothing of that name, or it holds no rules.
    """
    if named is None:
        return {}
    where = named if named.startswith(PYTHON) else f"{PYTHON}{named}:{NAME}"
    return channels.user_rules(zoo.find_object(where), f"--rules {named}")


def rules_digest(rules: channels.Rules) -> str:
    """Of the files that the rules are written in."""
    return digest({str(op): source(rule) for op, rule in rules.items()})
