"""The templates of the pages: every text is escaped, a missing name is an error, figures are typeset."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

from edgeprune.report import figures, variants

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str) -> Template:
    """Return one of the templates in this folder, with the filters that all of them use."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    pages = Environment(
        loader=FunctionLoader(_text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(
        typeset=typeset,
        ms=figures.milliseconds,
        size=figures.size,
        amount=figures.amount,
        percent=figures.percent,
        points=figures.points,
        seconds=figures.seconds,
        how_many=figures.how_many,
        p_value=figures.p_value,
        span=figures.span,
        accuracy_words=variants.accuracy_words,
        speed_words=variants.speed_words,
    )
    return pages.get_template(name)


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def typeset(text: str) -> str:
    """Turn ASCII figures into typographic ones: minus, times, and a number that keeps to its unit."""
    text = re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text)
    text = re.sub(r"(?<=\d)x\b", "\N{MULTIPLICATION SIGN}", text)
    return re.sub(r"(?<=\d) (?=%|(?:ms|s|[kMG]?B|[kMG]|points?)\b)", "\N{NO-BREAK SPACE}", text)
