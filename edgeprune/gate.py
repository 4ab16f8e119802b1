"""Budgets against what was measured. Three outcomes, because noise does not always allow two.

How each budget is decided, always for the pruned network:

latency    By the 95 % interval of p50: over only if all of it is above the limit, fits only if none of it is.
           Noise makes times longer, never shorter, so a noisy measurement may still fit, but a noisy one
           that looks over is undecided.
memory     By the peak of the whole process, runtime included: a device runs out of the total, and the total
           never flatters. The part above the bare runtime is in the reason.
size       Exactly.
accuracy   By the drop on the whole evaluation set. That drop is a fact about those images, and measuring it
           again cannot narrow its interval, so an interval rule would leave most gates undecided for ever.
           What the interval says about other images is in the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgeprune.records import (
    AccuracyChange,
    Artifact,
    Budget,
    Check,
    Interval,
    Latency,
    Measurement,
    Memory,
    Outcome,
    Verdict,
)

_ROUNDING = 1e-9
"""0.98 - 0.97 is a hair more than 0.01; a drop of exactly the limit fits."""
_SMALLEST_P = 0.001
"""Below this a p-value is only said to be below it."""
_MB = 1_000_000
NOTABLE_DROP = 0.01
"""A certain loss of accuracy above this is pointed out where nobody set a limit."""


def judge(
    budget: Budget,
    *,
    artifacts: Mapping[str, Artifact],
    accuracy_change: AccuracyChange,
    measurement: Measurement,
) -> Verdict:
    """Give the verdict on the `pruned` network: one check for each budget that is set, the worst decides."""
    checks: list[Check] = []
    if budget.max_latency_ms is not None:
        checks.append(_check_latency(budget.max_latency_ms, measurement.latency["pruned"], measurement))
    if budget.max_memory_bytes is not None:
        checks.append(_check_memory(budget.max_memory_bytes, measurement.memory["pruned"]))
    if budget.max_size_bytes is not None:
        checks.append(_check_size(budget.max_size_bytes, artifacts["pruned"].size_bytes))
    if budget.max_accuracy_drop is not None:
        checks.append(_check_accuracy(budget.max_accuracy_drop, accuracy_change))
    outcome = _worst(check.outcome for check in checks)
    trade = _trade(accuracy_change.drop.value, measurement)
    sentence = _sentence(checks, outcome, trade)
    if budget.max_accuracy_drop is None and accuracy_change.drop.low > NOTABLE_DROP:
        sentence += " The loss is more than chance: --max-accuracy-drop limits it."
    return Verdict(outcome=outcome, checks=tuple(checks), sentence=sentence)


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    for outcome in (Outcome.OVER, Outcome.UNDECIDED):
        if outcome in found:
            return outcome
    return Outcome.FITS


# --- one budget each ----------------------------------------------------------------------------------


def _check_latency(limit_ms: float, latency: Latency, measurement: Measurement) -> Check:
    p50 = latency.p50_ms
    if p50.high <= limit_ms:
        outcome, reason = Outcome.FITS, "the whole interval is within the limit"
    elif p50.low <= limit_ms:
        outcome, reason = Outcome.UNDECIDED, "the limit lies inside the interval; measure longer"
    elif measurement.quality == "noisy":
        noise = "; ".join(measurement.noise) or "no cause named"
        outcome = Outcome.UNDECIDED
        reason = f"above the limit, but the measurement was disturbed ({noise}); measure on a quiet machine"
    else:
        outcome, reason = Outcome.OVER, "the whole interval is above the limit"
    value = f"{_short(p50.value)} ms (95 % CI {_short(p50.low)} to {_short(p50.high)})"
    return Check(budget="latency p50", limit=f"{limit_ms:g} ms", value=value, outcome=outcome, reason=reason)


def _check_memory(limit_bytes: int, memory: Memory) -> Check:
    reason = f"{_margin(limit_bytes, memory.peak_bytes)}; {_size(memory.growth_bytes)} above the bare runtime"
    return Check(
        budget="peak memory, runtime included",
        limit=_exact_size(limit_bytes),
        value=_size(memory.peak_bytes),
        outcome=_within(memory.peak_bytes, limit_bytes),
        reason=reason,
    )


def _check_size(limit_bytes: int, size_bytes: int) -> Check:
    return Check(
        budget="model size",
        limit=_exact_size(limit_bytes),
        value=_size(size_bytes),
        outcome=_within(size_bytes, limit_bytes),
        reason=_margin(limit_bytes, size_bytes),
    )


def _check_accuracy(limit: float, change: AccuracyChange) -> Check:
    drop = change.drop
    reasons = ["measured on the whole evaluation set"]
    outcome = _within(drop.value, limit + _ROUNDING)
    if outcome is Outcome.FITS and drop.high > limit:
        reasons.append("on other images the drop may exceed the limit, as the interval shows")
    if outcome is Outcome.OVER and drop.low <= limit:
        reasons.append("on other images the drop may be within the limit, as the interval shows")
    reasons.append(f"exact McNemar p {_p_value(change.p_value)}")
    interval = f"95 % CI {100 * drop.low:.2f} to {100 * drop.high:.2f}"
    return Check(
        budget="accuracy drop, top-1",
        limit=f"{100 * limit:g} points",
        value=f"{100 * drop.value:.2f} points ({interval})",
        outcome=outcome,
        reason="; ".join(reasons),
    )


def _within(value: float, limit: float) -> Outcome:
    return Outcome.FITS if value <= limit else Outcome.OVER


def _margin(limit_bytes: int, value_bytes: int) -> str:
    side = "below" if value_bytes <= limit_bytes else "above"
    return f"{_size(abs(limit_bytes - value_bytes))} {side} the limit"


# --- in words -----------------------------------------------------------------------------------------


def _sentence(checks: list[Check], outcome: Outcome, trade: str) -> str:
    if not checks:
        return f"{trade[0].upper()}{trade[1:]}; no budget was set."
    if outcome is Outcome.FITS:
        return f"Fits the budget: {trade}."
    worst = "; ".join(f"{c.budget} {c.value}, limit {c.limit}" for c in checks if c.outcome is outcome)
    lead = {Outcome.OVER: "Over budget", Outcome.UNDECIDED: "Undecided"}[outcome]
    return f"{lead}: {worst}; {trade}."


def _trade(drop: float, measurement: Measurement) -> str:
    """Say what was won and what it cost: `2.13x faster (95 % CI 2.04 to 2.22) for -0.42 points top-1`."""
    ratio = measurement.ratio
    change = _points_changed(drop)
    joint = "for" if ratio.high < 1 and change.startswith("-") else "with"
    disturbed = ", in a disturbed measurement" if measurement.quality == "noisy" else ""
    return f"{_speed(ratio)} {joint} {change}{disturbed}"


def _speed(ratio: Interval) -> str:
    """How the pruned network's time compares, `ratio` being pruned over dense."""
    if ratio.high < 1:
        return f"{1 / ratio.value:.2f}x faster (95 % CI {1 / ratio.high:.2f} to {1 / ratio.low:.2f})"
    if ratio.low > 1:
        return f"{ratio.value:.2f}x slower (95 % CI {ratio.low:.2f} to {ratio.high:.2f})"
    bounds = f"95 % CI {ratio.low:.2f} to {ratio.high:.2f}"
    return f"not measurably faster (latency ratio {ratio.value:.2f}, {bounds})"


def _points_changed(drop: float) -> str:
    change = f"{-100 * drop:+.2f}"
    return "unchanged top-1" if change in {"+0.00", "-0.00"} else f"{change} points top-1"


def _p_value(p: float) -> str:
    return f"= {p:.2g}" if p >= _SMALLEST_P else f"< {_SMALLEST_P}"


def _short(value: float) -> str:
    """Three significant digits, never with an exponent."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits)}f}"


def _size(size_bytes: int) -> str:
    return f"{_short(size_bytes / _MB)} MB" if size_bytes >= _MB else f"{_short(size_bytes / 1000)} kB"


def _exact_size(limit_bytes: int) -> str:
    return f"{limit_bytes / _MB:.10g} MB"
