"""Budgets against what was measured. Three outcomes, because noise does not always allow two.

How each budget is decided, always for the deployed network (pruned, or pruned and quantized):

time       By its 95 % interval: over only if all of it is above the limit, fits only if none of it is.
           Noise makes times longer, never shorter, so a noisy measurement may still fit, but a noisy one
           that looks over is undecided.
           Against another network, p50: by the interval of the interleaved ratio. For one thread that is a
           ratio of CPU times, which noise does not lengthen.
memory     By the peak of the whole process, runtime included: a device runs out of the total, and the total
           never flatters. The part above the bare runtime is in the reason.
size, parameters, multiply-adds, unblocked convolutions, CPU instructions
           Exactly.
accuracy   Against dense, by the drop on the whole evaluation set. That drop is a fact about those images, and
           measuring it again cannot narrow its interval, so an interval rule would leave most gates undecided
           for ever. What the interval says about other images is in the reason.
           Against a baseline, and class by class, by an exact paired test: another build of the same network
           gets some other images wrong, and a gate that calls two of them a regression is switched off.
baseline   Times and memory are compared only where both were measured on the same kind of machine with the
           same runtime, or interleaved just now; otherwise they are not comparable, which is undecided.

checks.py    one limit against the evidence
evidence.py  the figures of the deployed network, the dense one and a baseline
words.py     figures as the gate says them
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgeprune.gate import words
from edgeprune.gate.checks import check
from edgeprune.gate.evidence import Evidence, interval, of_report
from edgeprune.records import (
    Accuracy,
    AccuracyChange,
    Artifact,
    Basis,
    Budget,
    Check,
    Figure,
    Interval,
    Layout,
    Limit,
    Measurement,
    Outcome,
    Report,
    Verdict,
)

__all__ = ["exit_code", "judge", "judge_report", "leaves_open"]

NOTABLE_DROP = 0.01
"""A certain loss of accuracy above this is pointed out where nobody set a limit."""
UNDECIDED_EXIT = 4


def judge(  # noqa: PLR0913 - keywords, and all but the first three have a default
    budget: Budget,
    *,
    artifacts: Mapping[str, Artifact],
    accuracy_change: AccuracyChange,
    measurement: Measurement,
    accuracy: Mapping[str, Accuracy] | None = None,
    classes: tuple[str, ...] = (),
    layouts: Mapping[str, Layout] | None = None,
    data_digest: str = "",
    deployed: str = "pruned",
) -> Verdict:
    """Give the verdict on the `deployed` variant: one check for each budget; the worst decides."""
    evidence = Evidence(
        artifacts=artifacts,
        accuracy_change=accuracy_change,
        measurement=measurement,
        accuracy=accuracy or {},
        classes=classes,
        layouts=layouts or {},
        data_digest=data_digest,
        deployed=deployed,
    )
    return _judge(budget, evidence)


def judge_report(  # noqa: PLR0913 - keywords, each with a default
    report: Report,
    budget: Budget,
    *,
    baseline: Report | None = None,
    to_baseline: Interval | None = None,
    measurement: Measurement | None = None,
    instructions: Mapping[str, float] | None = None,
) -> Verdict:
    """Give the verdict on a stored report.

    Args:
        baseline: The report that limits against a baseline speak of.
        to_baseline: Time of the deployed network over the baseline's, interleaved; None: not measured.
        measurement: In the place of the report's own, where it was measured again.
        instructions: CPU instructions of an inference, of the deployed variant, `dense` and `baseline`.
    """
    evidence = replace(
        of_report(report), baseline=baseline, to_baseline=to_baseline, instructions=instructions or {}
    )
    if measurement is not None:
        evidence = replace(evidence, measurement=measurement)
    return _judge(budget, evidence)


def leaves_open(budget: Budget, measurement: Measurement, *, deployed: str) -> bool:
    """Return whether a limit on a time lies inside its interval, so that measuring longer may decide."""
    for limit in limits(budget):
        found = interval(measurement.latency[deployed], limit.figure)
        if limit.basis is Basis.DENSE and limit.figure is Figure.LATENCY_P50:
            found = measurement.ratio
        elif limit.basis is not Basis.ABSOLUTE:
            continue
        if found is not None and found.low <= limit.value < found.high:
            return True
    return False


def exit_code(verdict: Verdict, *, undecided: str) -> int:
    """Return what the command ends with; `undecided` is `fail`, `pass` or `warn`."""
    if verdict.outcome is Outcome.UNDECIDED:
        return UNDECIDED_EXIT if undecided == "fail" else 0
    return verdict.exit_code


def limits(budget: Budget) -> tuple[Limit, ...]:
    """Return all limits of a budget, the short ones first."""
    short = {
        Figure.LATENCY_P50: (budget.max_latency_ms, Basis.ABSOLUTE),
        Figure.PEAK_MEMORY: (budget.max_memory_bytes, Basis.ABSOLUTE),
        Figure.MODEL_SIZE: (budget.max_size_bytes, Basis.ABSOLUTE),
        Figure.ACCURACY: (budget.max_accuracy_drop, Basis.DENSE),
    }
    found = [
        Limit(figure=figure, basis=basis, value=value)
        for figure, (value, basis) in short.items()
        if value is not None
    ]
    return (*found, *(limit for limit in budget.limits if limit not in found))


def _judge(budget: Budget, evidence: Evidence) -> Verdict:
    checks = [check(limit, evidence) for limit in limits(budget)]
    outcome = _worst(found.outcome for found in checks if not found.warns)
    change = evidence.accuracy_change
    trade = _trade(change, evidence.measurement)
    sentence = _sentence(checks, outcome, trade)
    limited = any(limit.figure is Figure.ACCURACY and limit.basis is Basis.DENSE for limit in limits(budget))
    if not limited and change.drop.low > NOTABLE_DROP:
        sentence += " The loss is more than chance: --max-accuracy-drop limits it."
    return Verdict(outcome=outcome, checks=tuple(checks), sentence=sentence)


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    for outcome in (Outcome.OVER, Outcome.UNDECIDED):
        if outcome in found:
            return outcome
    return Outcome.FITS


# --- in words -----------------------------------------------------------------------------------------


def _sentence(checks: list[Check], outcome: Outcome, trade: str) -> str:
    if not checks:
        return f"{trade[0].upper()}{trade[1:]}; no budget was set."
    if outcome is Outcome.FITS:
        return f"Fits the budget: {trade}."
    worst = "; ".join(
        f"{c.budget} {c.value}, limit {c.limit}" for c in checks if c.outcome is outcome and not c.warns
    )
    lead = {Outcome.OVER: "Over budget", Outcome.UNDECIDED: "Undecided"}[outcome]
    return f"{lead}: {worst}; {trade}."


def _trade(accuracy_change: AccuracyChange, measurement: Measurement) -> str:
    """Say what was won and what it cost: `2.13x faster (95 % CI 2.04 to 2.22) for -0.42 points top-1`."""
    ratio = measurement.ratio
    change = words.points_changed(accuracy_change.drop.value, accuracy_change.metric)
    joint = "for" if ratio.high < 1 and change.startswith("-") else "with"
    disturbed = ", in a disturbed measurement" if measurement.quality == "noisy" else ""
    return f"{_speed(ratio)} {joint} {change}{disturbed}"


def _speed(ratio: Interval) -> str:
    """How the deployed network's time compares, `ratio` being its time over the dense network's."""
    if ratio.high < 1:
        return f"{1 / ratio.value:.2f}x faster (95 % CI {1 / ratio.high:.2f} to {1 / ratio.low:.2f})"
    if ratio.low > 1:
        return f"{ratio.value:.2f}x slower (95 % CI {ratio.low:.2f} to {ratio.high:.2f})"
    bounds = f"95 % CI {ratio.low:.2f} to {ratio.high:.2f}"
    return f"not measurably faster (latency ratio {ratio.value:.2f}, {bounds})"
