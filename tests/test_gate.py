"""The gate: three outcomes per budget, the worst wins, and the sentence says what was paid for what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_report import measurement, sample_report

from edgeprune.gate import judge
from edgeprune.records import AccuracyChange, Budget, Interval, Measurement, Memory, Outcome, Verdict

NOTHING_LOST = AccuracyChange(drop=Interval(value=0.0, low=-0.01, high=0.01), lost=2, gained=2, p_value=1.0)


def quiet(**changes: object) -> Measurement:
    return replace(measurement(), quality="good", noise=(), **changes)


def judged(
    budget: Budget, measured: Measurement | None = None, change: AccuracyChange = NOTHING_LOST
) -> Verdict:
    artifacts = sample_report().artifacts
    return judge(
        budget,
        artifacts=artifacts,
        accuracy_change=change,
        measurement=quiet() if measured is None else measured,
    )


def with_p50(low: float, value: float, high: float, *, noisy: bool = False) -> Measurement:
    sample = measurement() if noisy else quiet()
    pruned = replace(sample.latency["pruned"], p50_ms=Interval(value=value, low=low, high=high))
    return replace(sample, latency={**sample.latency, "pruned": pruned})


@pytest.mark.parametrize(
    ("p50", "outcome"),
    [
        ((9.0, 9.5, 10.0), Outcome.FITS),
        ((9.0, 9.5, 10.1), Outcome.UNDECIDED),
        ((10.0, 10.5, 11.0), Outcome.UNDECIDED),
        ((10.1, 10.5, 11.0), Outcome.OVER),
    ],
)
def test_latency_is_decided_by_the_whole_interval(p50, outcome):
    verdict = judged(Budget(max_latency_ms=10.0), with_p50(*p50))
    assert verdict.checks[0].outcome is outcome
    assert verdict.outcome is outcome


def test_noise_makes_no_network_fail_but_may_let_it_pass():
    assert judged(Budget(max_latency_ms=10.0), with_p50(11, 12, 13, noisy=True)).outcome is Outcome.UNDECIDED
    assert judged(Budget(max_latency_ms=10.0), with_p50(7, 8, 9, noisy=True)).outcome is Outcome.FITS


def test_an_undecided_noisy_latency_names_the_noise():
    check = judged(Budget(max_latency_ms=10.0), with_p50(11, 12, 13, noisy=True)).checks[0]
    assert "other processes used 34 % of the CPU" in check.reason


@given(low=st.floats(1, 50), width=st.floats(0, 50), limit=st.floats(1, 100), slack=st.floats(0, 50))
def test_a_larger_limit_is_never_judged_worse(low, width, limit, slack):
    severity = [Outcome.FITS, Outcome.UNDECIDED, Outcome.OVER]
    measured = with_p50(low, low + width / 2, low + width)
    strict, lenient = (judged(Budget(max_latency_ms=ms), measured).outcome for ms in (limit, limit + slack))
    assert severity.index(lenient) <= severity.index(strict)


def test_memory_is_the_whole_process_and_says_so():
    memory = {"pruned": Memory(peak_bytes=90_000_000, growth_bytes=12_000_000)}
    measured = quiet(memory=memory)
    fits, over = (judged(Budget(max_memory_bytes=size), measured) for size in (90_000_000, 89_999_000))
    assert fits.outcome is Outcome.FITS
    assert over.outcome is Outcome.OVER
    assert "runtime included" in over.checks[0].budget
    assert over.checks[0].reason == "1.00 kB above the limit; 12.0 MB above the bare runtime"


def test_size_is_exact():
    size = sample_report().artifacts["pruned"].size_bytes
    assert judged(Budget(max_size_bytes=size)).outcome is Outcome.FITS
    assert judged(Budget(max_size_bytes=size - 1)).outcome is Outcome.OVER


@pytest.mark.parametrize(
    ("drop", "outcome", "hint"),
    [
        (Interval(value=0.98 - 0.97, low=0.0, high=0.01), Outcome.FITS, "whole evaluation set"),
        (Interval(value=0.008, low=-0.002, high=0.018), Outcome.FITS, "may exceed the limit"),
        (Interval(value=0.012, low=0.002, high=0.022), Outcome.OVER, "may be within the limit"),
        (Interval(value=0.03, low=0.02, high=0.04), Outcome.OVER, "p < 0.001"),
    ],
)
def test_accuracy_is_decided_by_the_drop_on_the_whole_set(drop, outcome, hint):
    change = AccuracyChange(drop=drop, lost=9, gained=1, p_value=0.0004)
    check = judged(Budget(max_accuracy_drop=0.01), change=change).checks[0]
    assert check.outcome is outcome
    assert hint in check.reason


def test_over_outweighs_undecided_which_outweighs_fits():
    undecided = with_p50(9, 10, 11)
    budget = Budget(max_latency_ms=10.0, max_size_bytes=10**9)
    assert judged(budget, undecided).outcome is Outcome.UNDECIDED
    assert judged(replace(budget, max_size_bytes=1), undecided).outcome is Outcome.OVER


def test_the_sentence_names_only_the_budgets_that_decided():
    verdict = judged(Budget(max_latency_ms=0.1, max_size_bytes=10**9))
    assert verdict.sentence.startswith(
        "Over budget: latency p50 4.63 ms (95 % CI 4.58 to 4.71), limit 0.1 ms;"
    )
    assert "model size" not in verdict.sentence


@pytest.mark.parametrize(
    ("ratio", "drop", "sentence"),
    [
        ((0.45, 0.5, 0.55), 0.004, "2.00x faster (95 % CI 1.82 to 2.22) for -0.40 points top-1"),
        ((0.45, 0.5, 0.55), -0.004, "2.00x faster (95 % CI 1.82 to 2.22) with +0.40 points top-1"),
        (
            (0.97, 0.99, 1.0),
            0.0,
            "Not measurably faster (latency ratio 0.99, 95 % CI 0.97 to 1.00) with unchanged",
        ),
        ((1.1, 1.2, 1.3), 0.004, "1.20x slower (95 % CI 1.10 to 1.30) with -0.40 points top-1"),
    ],
)
def test_without_budgets_the_sentence_states_the_trade(ratio, drop, sentence):
    low, value, high = ratio
    change = replace(NOTHING_LOST, drop=Interval(value=drop, low=drop - 0.01, high=drop + 0.01))
    verdict = judged(Budget(), quiet(ratio=Interval(value=value, low=low, high=high)), change)
    assert verdict.outcome is Outcome.FITS
    assert verdict.checks == ()
    assert verdict.sentence.startswith(sentence)
    assert verdict.sentence.endswith("; no budget was set.")


@pytest.mark.parametrize(
    ("limit", "low", "said"), [(None, 0.03, True), (None, 0.009, False), (0.5, 0.03, False)]
)
def test_a_certain_loss_without_a_limit_is_pointed_out(limit, low, said):
    change = replace(NOTHING_LOST, drop=Interval(value=0.05, low=low, high=0.07))
    verdict = judged(Budget(max_accuracy_drop=limit), quiet(), change)
    assert ("--max-accuracy-drop" in verdict.sentence) is said


def test_a_disturbed_measurement_is_admitted_in_the_sentence():
    assert "in a disturbed measurement" in judged(Budget(), measurement()).sentence
    assert "disturbed" not in judged(Budget()).sentence
