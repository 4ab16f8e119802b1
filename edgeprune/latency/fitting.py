"""Profiles of a network at a few widths -> a model of its latency at all of them.

Each operator's time is a constant part, a part for its multiply-adds (counted as they are, and with channels
in whole blocks), and one for the tensors it reads and writes; none is negative. The sum is then held against
the latency of the whole, which knows what lies between the operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from edgeprune.latency.model import MILLION, features, predict
from edgeprune.latency.shapes import Attribution, Doubles, form_sizes
from edgeprune.records import (
    Dimension,
    LatencyModel,
    OperatorModel,
    Prediction,
    Profile,
    ProfiledOperator,
    WidthForm,
)

FEWEST = 3
"""Variants that an operator has to occur in to be fitted."""
KERNEL_BLOCKS = (8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a model holds for."""

    runtime: str
    threads: int
    step: int


@dataclass(frozen=True, slots=True, eq=False)
class _Operator:
    """One operator over the variants that it occurs in."""

    name: str
    kind: str
    shapes: tuple[tuple[Dimension, ...], ...]
    variants: tuple[int, ...]
    times: Doubles


def fit(
    forms: Sequence[WidthForm],
    widths: Sequence[Mapping[str, int]],
    profiles: Sequence[Profile],
    *,
    setting: Setting,
) -> LatencyModel:
    """Fit a model to a network's profiles.

    Args:
        forms: How axes depend on the widths.
        widths: Of each variant, the dense network first.
        profiles: Of each variant.
        setting: Where they were made.
    """
    operators = _operators(forms, widths, profiles)
    latencies = np.array([profile.latency_ms for profile in profiles])
    models = [_fit(forms, widths, operators, latencies, setting, block) for block in KERNEL_BLOCKS]
    best = min(models, key=lambda model: (model.error, model.block))
    return best


def _fit(  # noqa: PLR0913, PLR0917 - the parts of one fit
    forms: Sequence[WidthForm],
    widths: Sequence[Mapping[str, int]],
    operators: Sequence[_Operator],
    latencies: Doubles,
    setting: Setting,
    block: int,
) -> LatencyModel:
    def without(left_out: int | None) -> LatencyModel:
        return _model(forms, widths, operators, latencies, setting, block, left_out)

    sweep = []
    for number in range(1, len(widths)):
        predicted = float(predict(without(number), [widths[number]])[0])
        sweep.append(
            Prediction(
                widths=dict(widths[number]), measured_ms=float(latencies[number]), predicted_ms=predicted
            )
        )
    return replace(without(None), sweep=tuple(sweep))


def _model(  # noqa: PLR0913, PLR0917 - as above
    forms: Sequence[WidthForm],
    widths: Sequence[Mapping[str, int]],
    operators: Sequence[_Operator],
    latencies: Doubles,
    setting: Setting,
    block: int,
    left_out: int | None,
) -> LatencyModel:
    sizes = form_sizes(forms, widths)
    fitted = tuple(_fit_operator(operator, sizes, block, left_out) for operator in operators)
    model = LatencyModel(
        runtime=setting.runtime,
        threads=setting.threads,
        step=setting.step,
        block=block,
        dense=dict(widths[0]),
        dense_ms=float(latencies[0]),
        forms=tuple(forms),
        operators=fitted,
        scale=1.0,
        overhead_ms=0.0,
        sweep=(),
    )
    seen = [number for number in range(len(widths)) if number != left_out]
    sums = predict(model, [widths[number] for number in seen])
    scale, overhead = _line(sums, latencies[seen])
    return replace(model, scale=scale, overhead_ms=overhead)


def _line(sums: Doubles, latencies: Doubles) -> tuple[float, float]:
    """Scale and constant, neither negative, with the least relative errors; exact for the dense network."""
    table = np.stack([sums, np.ones_like(sums)], axis=1) / latencies[:, None]
    weights = np.ones(len(sums))
    weights[0] = 3.0  # every comparison is with the dense network
    (scale, overhead), _ = nnls(table * weights[:, None], weights)
    return float(scale), float(overhead)


def _fit_operator(operator: _Operator, sizes: Doubles, block: int, left_out: int | None) -> OperatorModel:
    rows = [row for row, variant in enumerate(operator.variants) if variant != left_out]
    chosen = [operator.variants[row] for row in rows]
    times = np.maximum(operator.times[rows], 1e-6)
    table = features(operator.kind, operator.shapes, sizes[:, chosen], sizes[:, 0], block)
    largest = np.maximum(table.max(axis=1), 1.0)
    # Relative errors count; a column is scaled so that its share of the time is of the order of one.
    solution, _ = nnls((table / largest[:, None] / times).T, np.ones(len(rows)))
    constant, mac, padded, element = solution / largest
    return OperatorModel(
        name=operator.name,
        kind=operator.kind,
        dense_ms=float(operator.times[0]),
        shapes=operator.shapes,
        constant_ms=float(constant),
        per_mac_ns=float(mac * MILLION),
        per_padded_mac_ns=float(padded * MILLION),
        per_element_ns=float(element * MILLION),
    )


def _operators(
    forms: Sequence[WidthForm], widths: Sequence[Mapping[str, int]], profiles: Sequence[Profile]
) -> list[_Operator]:
    """The dense network's operators, each with what the variants say about it."""
    tables = [_by_name(profile) for profile in profiles]
    found = []
    for name, operator in tables[0].items():
        rank = [len(shape) for shape in operator.shapes]
        variants = [
            number
            for number, table in enumerate(tables)
            if name in table and [len(shape) for shape in table[name].shapes] == rank
        ]
        if len(variants) < min(FEWEST, len(profiles)):
            continue
        attribution = Attribution(forms, [widths[number] for number in variants])
        seen = [tables[number][name] for number in variants]
        shapes = tuple(
            tuple(
                attribution.dimension(tuple(each.shapes[tensor][axis] for each in seen))
                for axis in range(len(shape))
            )
            for tensor, shape in enumerate(operator.shapes)
        )
        times = np.array([each.time_ms for each in seen])
        found.append(_Operator(name, operator.kind, shapes, tuple(variants), times))
    return found


def _by_name(profile: Profile) -> dict[str, ProfiledOperator]:
    """Operators by name; kernels differ between widths, so what follows the op's name does not count."""
    return {f"{operator.name} {operator.kind.partition(' ')[0]}": operator for operator in profile.operators}
