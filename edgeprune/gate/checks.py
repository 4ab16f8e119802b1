"""One limit against the evidence: outcome, figures in words, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from edgeprune import paired
from edgeprune.gate import words
from edgeprune.gate.evidence import Evidence, figure, interval, machine_differences, other
from edgeprune.records import (
    Accuracy,
    AccuracyChange,
    Basis,
    Check,
    Figure,
    Interval,
    Limit,
    Measurement,
    Outcome,
)

ROUNDING = 1e-9
"""0.98 - 0.97 is a hair more than 0.01; a drop of exactly the limit fits."""
NAMES = {
    Figure.LATENCY_P50: "latency p50",
    Figure.LATENCY_P90: "latency p90",
    Figure.LOAD_TIME: "load time",
    Figure.FIRST_INFERENCE: "first inference",
    Figure.PEAK_MEMORY: "peak memory, runtime included",
    Figure.MODEL_SIZE: "model size",
    Figure.PARAMS: "parameters",
    Figure.MACS: "multiply-adds",
    Figure.UNBLOCKED_CONVS: "unblocked convolutions",
    Figure.INSTRUCTIONS: "CPU instructions of an inference",
    Figure.ACCURACY: "top-1 accuracy",
    Figure.CLASS_ACCURACY: "accuracy of the worst class",
}
TIMES = (Figure.LATENCY_P50, Figure.LATENCY_P90, Figure.LOAD_TIME, Figure.FIRST_INFERENCE)
OF_A_MACHINE = (*TIMES, Figure.PEAK_MEMORY)
"""Figures that mean something only on the machine that gave them."""
SHOWN: dict[Figure, tuple[Callable[[float], str], Callable[[float], str]]] = {
    **{time: (lambda limit: f"{limit:g} ms", words.milliseconds) for time in TIMES},
    Figure.PEAK_MEMORY: (words.exact_size, words.size),
    Figure.MODEL_SIZE: (words.exact_size, words.size),
    Figure.PARAMS: (words.count, words.count),
    Figure.MACS: (words.count, words.count),
    Figure.UNBLOCKED_CONVS: (words.count, words.count),
    Figure.INSTRUCTIONS: (words.count, words.count),
}
"""How a limit and a value are said."""
WHY_UNKNOWN = {
    Figure.INSTRUCTIONS: "not counted: `edgeprune gate` does, beside the run's files, with perf or valgrind"
}
TOP1 = "top-1"
OTHERS = {Basis.DENSE: "dense", Basis.BASELINE: "the baseline"}


def check(limit: Limit, evidence: Evidence) -> Check:
    """Hold one limit against what was measured."""
    if limit.figure is Figure.ACCURACY:
        found, metric = _accuracy(limit, evidence), evidence.accuracy_change.metric
        named = NAMES[Figure.ACCURACY] if metric == TOP1 else metric
        return replace(found, budget=found.budget.replace(NAMES[Figure.ACCURACY], named))
    if limit.figure is Figure.CLASS_ACCURACY:
        return _class_accuracy(limit, evidence)
    if limit.basis is not Basis.ABSOLUTE:
        return _ratio(limit, evidence)
    return _time(limit, evidence) if limit.figure in TIMES else _exact(limit, evidence)


def _made(limit: Limit, *, shown: str, value: str, outcome: Outcome, reason: str) -> Check:
    against = "" if limit.basis is Basis.ABSOLUTE else f" vs {OTHERS[limit.basis]}"
    return Check(
        budget=f"{NAMES[limit.figure]}{against}",
        limit=shown,
        value=value,
        outcome=outcome,
        reason=reason,
        warns=limit.warns,
    )


def within(value: float, limit: float) -> Outcome:
    return Outcome.FITS if value <= limit else Outcome.OVER


# --- absolute -----------------------------------------------------------------------------------------


def _time(limit: Limit, evidence: Evidence) -> Check:
    measured = evidence.measurement
    latency = measured.latency[evidence.deployed]
    found = interval(latency, limit.figure)
    shown, said = SHOWN[limit.figure]
    value = figure(evidence, evidence.deployed, limit.figure)
    assert value is not None
    if found is None and limit.figure is Figure.LATENCY_P90:
        outcome, reason = Outcome.UNDECIDED, f"{latency.runs} runs are too few for a p90; measure longer"
    elif found is None:
        outcome, reason = within(value, limit.value), "median over processes, without an interval"
    else:
        outcome, reason = _by_interval(found, limit.value)
    if outcome is Outcome.OVER and measured.quality == "noisy":
        outcome, reason = Outcome.UNDECIDED, _disturbed(measured)
    bounds = f" ({words.interval(found)})" if found else ""
    return _made(
        limit, shown=shown(limit.value), value=f"{said(value)}{bounds}", outcome=outcome, reason=reason
    )


def _by_interval(found: Interval, limit: float) -> tuple[Outcome, str]:
    if found.high <= limit:
        return Outcome.FITS, "the whole interval is within the limit"
    if found.low <= limit:
        return Outcome.UNDECIDED, "the limit lies inside the interval; measure longer"
    return Outcome.OVER, "the whole interval is above the limit"


def _disturbed(measured: Measurement) -> str:
    noise = "; ".join(measured.noise) or "no cause named"
    return f"above the limit, but the measurement was disturbed ({noise}); measure on a quiet machine"


def _exact(limit: Limit, evidence: Evidence) -> Check:
    shown, said = SHOWN[limit.figure]
    value = figure(evidence, evidence.deployed, limit.figure)
    if value is None:
        return _unknown(
            limit, shown(limit.value), WHY_UNKNOWN.get(limit.figure, "this system does not tell it")
        )
    reason = ""
    if limit.figure in (Figure.MODEL_SIZE, Figure.PEAK_MEMORY):
        reason = words.margin(limit.value, value)
    if limit.figure is Figure.PEAK_MEMORY:
        growth = evidence.measurement.memory[evidence.deployed].growth_bytes
        reason = f"{reason}; {words.size(growth)} above the bare runtime"
    return _made(
        limit,
        shown=shown(limit.value),
        value=said(value),
        outcome=within(value, limit.value),
        reason=reason,
    )


def _unknown(limit: Limit, shown: str, reason: str) -> Check:
    return _made(limit, shown=shown, value="unknown", outcome=Outcome.UNDECIDED, reason=reason)


# --- against another network --------------------------------------------------------------------------


def _ratio(limit: Limit, evidence: Evidence) -> Check:
    shown = f"{limit.value:.4g}x"
    found = other(evidence, limit.basis)
    if found is None:
        return _unknown(limit, shown, "there is no baseline; name one with --baseline")
    if limit.figure is Figure.LATENCY_P50:
        interleaved = evidence.measurement.ratio if limit.basis is Basis.DENSE else evidence.to_baseline
        if interleaved is not None:
            return _interleaved(limit, shown, interleaved, evidence.measurement)
    elsewhere, name = found
    differences = machine_differences(evidence, elsewhere) if limit.basis is Basis.BASELINE else []
    if differences and limit.figure in OF_A_MACHINE:
        return _unknown(limit, shown, f"not comparable, another machine: {'; '.join(differences)}")
    now, then = figure(evidence, evidence.deployed, limit.figure), figure(elsewhere, name, limit.figure)
    if now is None or then is None:
        return _unknown(limit, shown, WHY_UNKNOWN.get(limit.figure, "one of the two figures is not known"))
    if limit.figure in TIMES:
        return _apart(limit, shown, evidence, elsewhere, name)
    said = SHOWN[limit.figure][1]
    outcome = within(now, limit.value * then * (1 + ROUNDING))
    share = f"{now / then:.3f}x" if then else "more than none" if now else "1x"
    return _made(limit, shown=shown, value=share, outcome=outcome, reason=f"{said(now)}, was {said(then)}")


def _interleaved(limit: Limit, shown: str, ratio: Interval, measured: Measurement) -> Check:
    outcome, reason = _by_interval(ratio, limit.value)
    if outcome is Outcome.OVER and measured.quality == "noisy" and measured.ratio_basis == "wall time":
        outcome, reason = Outcome.UNDECIDED, _disturbed(measured)
    value = f"{ratio.value:.3f}x ({words.interval(ratio, digits=3)})"
    return _made(limit, shown=shown, value=value, outcome=outcome, reason=f"{reason}; interleaved")


def _apart(limit: Limit, shown: str, evidence: Evidence, elsewhere: Evidence, name: str) -> Check:
    """Two times of separate processes: the interval of their ratio is the widest that theirs allow."""
    mine, theirs = evidence.measurement.latency[evidence.deployed], elsewhere.measurement.latency[name]
    now, then = figure(evidence, evidence.deployed, limit.figure), figure(elsewhere, name, limit.figure)
    assert now is not None
    assert then is not None
    ours, bounds = interval(mine, limit.figure), interval(theirs, limit.figure)
    ratio = Interval(
        value=now / then,
        low=(ours.low if ours else now) / (bounds.high if bounds else then),
        high=(ours.high if ours else now) / (bounds.low if bounds else then),
    )
    outcome, reason = _by_interval(ratio, limit.value)
    if outcome is Outcome.OVER and evidence.measurement.quality == "noisy":
        outcome, reason = Outcome.UNDECIDED, _disturbed(evidence.measurement)
    value = f"{ratio.value:.3f}x ({words.interval(ratio, digits=3)})"
    said = f"{words.milliseconds(now)}, was {words.milliseconds(then)}"
    return _made(
        limit, shown=shown, value=value, outcome=outcome, reason=f"{reason}; {said}, not interleaved"
    )


# --- accuracy -----------------------------------------------------------------------------------------


def _accuracy(limit: Limit, evidence: Evidence) -> Check:
    if limit.basis is Basis.DENSE:
        return drop_against_dense(limit, evidence.accuracy_change)
    if limit.basis is Basis.BASELINE:
        return _drop_against_baseline(limit, evidence)
    shown = words.percent(limit.value)
    accuracy = evidence.accuracy.get(evidence.deployed)
    if accuracy is None:
        return _unknown(limit, shown, "no accuracy was measured")
    top1 = accuracy.top1
    bounds = f"95 % CI {100 * top1.low:.2f} to {100 * top1.high:.2f}"
    outcome = within(limit.value, top1.value + ROUNDING)
    value = f"{words.percent(top1.value)} ({bounds})"
    reason = f"measured on the whole evaluation set, {accuracy.images} images"
    return _made(limit, shown=f"at least {shown}", value=value, outcome=outcome, reason=reason)


def drop_against_dense(limit: Limit, change: AccuracyChange) -> Check:
    """A promise about the evaluation images, which the dense network and this one both saw."""
    drop = change.drop
    reasons = ["measured on the whole evaluation set"]
    outcome = within(drop.value, limit.value + ROUNDING)
    if outcome is Outcome.FITS and drop.high > limit.value:
        reasons.append("on other images the drop may exceed the limit, as the interval shows")
    if outcome is Outcome.OVER and drop.low <= limit.value:
        reasons.append("on other images the drop may be within the limit, as the interval shows")
    reasons.append(f"{change.test} p {words.p_value(change.p_value)}")
    bounds = f"95 % CI {100 * drop.low:.2f} to {100 * drop.high:.2f}"
    return Check(
        budget=f"accuracy drop, {change.metric}",
        limit=f"{100 * limit.value:g} points",
        value=f"{words.points(drop.value)} ({bounds})",
        outcome=outcome,
        reason="; ".join(reasons),
        warns=limit.warns,
    )


def _drop_against_baseline(limit: Limit, evidence: Evidence) -> Check:
    shown = f"a drop of {100 * limit.value:g} points"
    found, why = _same_images(evidence)
    if found is None:
        return _unknown(limit, shown, why)
    before, after = found.accuracy[found.deployed], evidence.accuracy[evidence.deployed]
    if after.metric != TOP1:
        return _by_figure(limit, shown, before.top1.value - after.top1.value, after.metric)
    changed = paired.change(before, after)
    if changed is None:
        return _unknown(limit, shown, "the baseline does not say which images it gets wrong; build it again")
    p = paired.excess_p(changed, limit.value)
    value = f"{words.points(changed.drop)} (lost {changed.lost} images, gained {changed.gained})"
    outcome, reason = _by_test(changed.drop, limit.value, p, paired.OVER_BELOW)
    return _made(limit, shown=shown, value=value, outcome=outcome, reason=reason)


def _by_test(drop: float, limit: float, p: float, over_below: float) -> tuple[Outcome, str]:
    test = f"exact paired test p {words.p_value(p)}"
    if drop <= limit + ROUNDING:
        return Outcome.FITS, test
    if p < over_below:
        return Outcome.OVER, f"more than chance: {test}"
    return Outcome.UNDECIDED, f"above the limit, but it may be chance: {test}; evaluate on more images"


def _falls(before: Accuracy, after: Accuracy) -> Iterator[tuple[float, int]]:
    """How far the figure of each class fell, with its number."""
    for number, (one, left) in enumerate(zip(before.per_class, after.per_class, strict=True)):
        if one is not None and left is not None:
            yield one - left, number


def _by_figure(limit: Limit, shown: str, drop: float, what: str) -> Check:
    """A figure that is no share of images: nothing to count lost images by."""
    value = f"{what}: {words.points(drop)}"
    reason = "measured on the whole evaluation set"
    return _made(limit, shown=shown, value=value, outcome=within(drop, limit.value + ROUNDING), reason=reason)


def _same_images(evidence: Evidence) -> tuple[Evidence | None, str]:
    """Return the baseline when it was evaluated on the same images, else why it cannot be compared."""
    found = other(evidence, Basis.BASELINE)
    if found is None:
        return None, "there is no baseline; name one with --baseline"
    elsewhere = found[0]
    images = [e.accuracy[e.deployed].images for e in (evidence, elsewhere) if e.deployed in e.accuracy]
    if elsewhere.data_digest != evidence.data_digest or len(set(images)) != 1 or len(images) != 2:  # noqa: PLR2004 - two of them
        return None, "not comparable, the baseline was evaluated on other images"
    return elsewhere, ""


def _class_accuracy(limit: Limit, evidence: Evidence) -> Check:
    if limit.basis is Basis.ABSOLUTE:
        return _worst_class(limit, evidence)
    shown = f"a drop of {100 * limit.value:g} points"
    found, why = (evidence, "") if limit.basis is Basis.DENSE else _same_images(evidence)
    if found is None:
        return _unknown(limit, shown, why)
    name = "dense" if limit.basis is Basis.DENSE else found.deployed
    if name not in found.accuracy or evidence.deployed not in evidence.accuracy:
        return _unknown(limit, shown, "no accuracy was measured")
    before, after = found.accuracy[name], evidence.accuracy[evidence.deployed]
    if after.metric != TOP1:
        drop, worst = max(_falls(before, after), default=(0.0, 0))
        return _by_figure(limit, shown, drop, _class_name(evidence, worst))
    changes = paired.class_changes(before, after)
    if not changes:
        return _unknown(limit, shown, "the report does not say which images are wrong; build it again")
    worst = max(changes, key=lambda number: changes[number].drop)
    p_values = {number: paired.excess_p(change, limit.value) for number, change in changes.items()}
    surest = min(p_values, key=lambda number: p_values[number])
    over_below = paired.OVER_BELOW / len(changes)
    shown_class = surest if p_values[surest] < over_below else worst
    changed = changes[shown_class]
    outcome, reason = _by_test(changed.drop, limit.value, p_values[shown_class], over_below)
    value = (
        f"{_class_name(evidence, shown_class)}: {words.points(changed.drop)} "
        f"(lost {changed.lost} of {changed.images} images, gained {changed.gained})"
    )
    if len(changes) > 1:
        reason = f"{reason}, where {words.short(over_below)} counts for {len(changes)} classes"
    return _made(limit, shown=shown, value=value, outcome=outcome, reason=reason)


def _worst_class(limit: Limit, evidence: Evidence) -> Check:
    shown = f"at least {words.percent(limit.value)}"
    accuracy = evidence.accuracy.get(evidence.deployed)
    known = [
        (share, number)
        for number, share in enumerate(accuracy.per_class if accuracy else ())
        if share is not None
    ]
    if not known:
        return _unknown(limit, shown, "no accuracy was measured")
    share, number = min(known)
    outcome = within(limit.value, share + ROUNDING)
    value = f"{_class_name(evidence, number)}: {words.percent(share)}"
    return _made(
        limit, shown=shown, value=value, outcome=outcome, reason="measured on the whole evaluation set"
    )


def _class_name(evidence: Evidence, number: int) -> str:
    return evidence.classes[number] if number < len(evidence.classes) else f"class {number}"
