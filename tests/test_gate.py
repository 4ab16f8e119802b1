"""The gate: three outcomes per budget, the worst wins, and the sentence says what was paid for what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_report import measurement, quantized_report, sample_report
from scipy.stats import binomtest

from edgeprune import paired
from edgeprune.gate import exit_code, judge, judge_report, limits
from edgeprune.records import (
    Accuracy,
    AccuracyChange,
    Basis,
    Budget,
    Check,
    Figure,
    Interval,
    Layout,
    Limit,
    Measurement,
    Memory,
    Outcome,
    Report,
    Verdict,
)

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


@settings(deadline=None)  # no clock in tests
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


# --- limits of every kind -----------------------------------------------------------------------------


def line(figure: Figure, value: float, basis: Basis = Basis.ABSOLUTE, *, warns: bool = False) -> Budget:
    return Budget(limits=(Limit(figure=figure, basis=basis, value=value, warns=warns),))


def report_with(**changes: object) -> Report:
    return replace(sample_report(), **{"measurement": quiet(), **changes})


def only(verdict: Verdict) -> Check:
    assert len(verdict.checks) == 1
    return verdict.checks[0]


def test_a_system_that_does_not_tell_its_memory_is_undecided():
    check = only(judged(Budget(max_memory_bytes=10**9), quiet(memory={})))
    assert (check.outcome, check.value) == (Outcome.UNDECIDED, "unknown")


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((5.0, 6.0), Outcome.FITS), ((5.0, 8.0), Outcome.UNDECIDED), ((7.5, 8.0), Outcome.OVER)],
)
def test_p90_is_decided_by_its_interval(interval, outcome):
    low, high = interval
    sample = quiet()
    p90 = Interval(value=(low + high) / 2, low=low, high=high)
    pruned = replace(sample.latency["pruned"], p90_interval_ms=p90)
    measured = replace(sample, latency={**sample.latency, "pruned": pruned})
    assert only(judged(line(Figure.LATENCY_P90, 7.0), measured)).outcome is outcome
    few = only(judged(line(Figure.LATENCY_P90, 7.0)))
    assert few.outcome is Outcome.UNDECIDED
    assert "too few" in few.reason


@pytest.mark.parametrize(
    ("figure", "least"),
    [(Figure.MODEL_SIZE, "size_bytes"), (Figure.PARAMS, "params"), (Figure.MACS, "macs")],
)
def test_what_is_counted_is_exact(figure, least):
    artifacts = sample_report().artifacts
    value, dense = getattr(artifacts["pruned"], least), getattr(artifacts["dense"], least)
    assert judged(line(figure, value)).outcome is Outcome.FITS
    assert judged(line(figure, value - 1)).outcome is Outcome.OVER
    assert judged(line(figure, value / dense, Basis.DENSE)).outcome is Outcome.FITS
    assert judged(line(figure, value / dense - 0.001, Basis.DENSE)).outcome is Outcome.OVER


def test_instructions_are_exact_and_counted_just_now():
    counts = {"pruned": 100.0, "dense": 200.0, "baseline": 99.0}

    def outcome(value: float, basis: Basis = Basis.ABSOLUTE, given: dict[str, float] = counts) -> Outcome:
        limit = line(Figure.INSTRUCTIONS, value, basis)
        return judge_report(report_with(), limit, baseline=report_with(), instructions=given).outcome

    assert outcome(100) is outcome(0.5, Basis.DENSE) is outcome(1.02, Basis.BASELINE) is Outcome.FITS
    assert outcome(99) is outcome(0.49, Basis.DENSE) is outcome(1.01, Basis.BASELINE) is Outcome.OVER
    assert outcome(100, given={}) is outcome(1.0, Basis.BASELINE, {"pruned": 1.0}) is Outcome.UNDECIDED


def test_unblocked_convolutions_need_a_layout():
    layout = Layout(convolutions=9, unblocked=2, reorders=3, blocked_layout=True)
    found = report_with(layouts={"pruned": layout})
    assert judge_report(found, line(Figure.UNBLOCKED_CONVS, 2)).outcome is Outcome.FITS
    assert judge_report(found, line(Figure.UNBLOCKED_CONVS, 1)).outcome is Outcome.OVER
    assert judge_report(report_with(), line(Figure.UNBLOCKED_CONVS, 1)).outcome is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.5, Outcome.FITS), (0.47, Outcome.UNDECIDED), (0.45, Outcome.OVER)]
)
def test_p50_against_dense_is_the_interleaved_ratio_and_cpu_time_stands_noise(limit, outcome):
    for measured in (quiet(), measurement()):
        check = only(judged(line(Figure.LATENCY_P50, limit, Basis.DENSE), measured))
        assert check.outcome is outcome
        assert "interleaved" in check.reason
    wall = replace(measurement(), ratio_basis="wall time")
    expected = Outcome.UNDECIDED if outcome is Outcome.OVER else outcome
    assert judged(line(Figure.LATENCY_P50, limit, Basis.DENSE), wall).outcome is expected


def test_a_baseline_of_another_machine_is_not_comparable_but_its_size_is():
    before = report_with(measurement=quiet(machine={"cpu": "another"}))
    for figure in (Figure.LATENCY_P50, Figure.LATENCY_P90, Figure.PEAK_MEMORY, Figure.LOAD_TIME):
        check = only(judge_report(report_with(), line(figure, 9.0, Basis.BASELINE), baseline=before))
        assert check.outcome is Outcome.UNDECIDED
        assert "not comparable, another machine: cpu: Intel Xeon E5-2680 v4, was another" in check.reason
    size = judge_report(report_with(), line(Figure.MODEL_SIZE, 1.0, Basis.BASELINE), baseline=before)
    assert size.outcome is Outcome.FITS


def test_a_baseline_of_the_same_machine_is_compared_by_the_widest_interval():
    check = only(
        judge_report(report_with(), line(Figure.LATENCY_P50, 1.05, Basis.BASELINE), baseline=report_with())
    )
    assert check.outcome is Outcome.FITS
    assert check.value == "1.000x (95 % CI 0.973 to 1.027)"
    strict = judge_report(
        report_with(), line(Figure.LATENCY_P50, 1.0, Basis.BASELINE), baseline=report_with()
    )
    assert strict.outcome is Outcome.UNDECIDED
    noisy = replace(report_with(), measurement=measurement())
    over = line(Figure.LATENCY_P50, 0.5, Basis.BASELINE)
    assert judge_report(report_with(), over, baseline=report_with()).outcome is Outcome.OVER
    assert judge_report(noisy, over, baseline=report_with()).outcome is Outcome.UNDECIDED


def test_what_was_interleaved_with_the_baseline_counts_whatever_machine_that_was():
    before = report_with(measurement=quiet(machine={"cpu": "another"}))
    verdict = judge_report(
        report_with(),
        line(Figure.LATENCY_P50, 1.0, Basis.BASELINE),
        baseline=before,
        to_baseline=Interval(value=1.05, low=1.03, high=1.07),
    )
    assert verdict.outcome is Outcome.OVER


def test_without_a_baseline_nothing_is_decided():
    for figure in (Figure.LATENCY_P50, Figure.ACCURACY, Figure.CLASS_ACCURACY):
        check = only(judge_report(report_with(), line(figure, 0.5, Basis.BASELINE)))
        assert check.outcome is Outcome.UNDECIDED
        assert "--baseline" in check.reason


def accuracy_of(wrong: set[int], *, images: int = 100, classes: int = 2) -> Accuracy:
    """Images 0, 2, 4 ... are of class 0, the others of class 1."""
    labels = [i % classes for i in range(images)]
    predictions = [(label + 1) % classes if i in wrong else label for i, label in enumerate(labels)]
    right = [sum(label == k for i, label in enumerate(labels) if i not in wrong) for k in range(classes)]
    share = 1 - len(wrong) / images
    return Accuracy(
        top1=Interval(value=share, low=share - 0.05, high=share + 0.05),
        images=images,
        per_class=tuple(hits / labels.count(k) for k, hits in enumerate(right)),
        predictions=tuple(predictions),
        wrong=tuple(sorted(wrong)),
    )


def evaluated(dense: set[int], pruned: set[int]) -> Report:
    accuracy = {"dense": accuracy_of(dense), "pruned": accuracy_of(pruned)}
    return report_with(accuracy=accuracy, classes=("cat", "dog"))


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [(0, Outcome.FITS), (1, Outcome.UNDECIDED), (5, Outcome.UNDECIDED), (6, Outcome.OVER)],
)
def test_a_drop_against_the_baseline_is_over_only_when_it_is_more_than_chance(lost, outcome):
    now, before = evaluated(set(), set(range(lost))), evaluated(set(), set())
    verdict = judge_report(now, line(Figure.ACCURACY, 0.0, Basis.BASELINE), baseline=before)
    assert only(verdict).outcome is outcome


def test_a_baseline_on_other_images_is_not_comparable():
    before = evaluated(set(), set())
    other = replace(before, provenance=replace(before.provenance, data_digest="sha256:other"))
    check = only(judge_report(before, line(Figure.ACCURACY, 0.0, Basis.BASELINE), baseline=other))
    assert check.reason == "not comparable, the baseline was evaluated on other images"
    silent = replace(before, accuracy={"pruned": replace(before.accuracy["pruned"], wrong=None)})
    check = only(judge_report(before, line(Figure.ACCURACY, 0.0, Basis.BASELINE), baseline=silent))
    assert "does not say which images" in check.reason


@pytest.mark.parametrize(
    ("wrong", "outcome"),
    [
        (set(), Outcome.FITS),
        ({0, 2}, Outcome.UNDECIDED),
        (set(range(0, 20, 2)), Outcome.OVER),
        (set(range(10)), Outcome.UNDECIDED),
    ],
    ids=["none", "two of a class", "ten of a class", "five of each"],
)
def test_classes_are_tested_each_for_itself(wrong, outcome):
    verdict = judge_report(evaluated(set(), wrong), line(Figure.CLASS_ACCURACY, 0.0, Basis.DENSE))
    assert only(verdict).outcome is outcome
    if outcome is Outcome.OVER:
        assert only(verdict).value == "cat: 20.00 points (lost 10 of 50 images, gained 0)"


def test_the_worst_class_has_a_least_accuracy():
    found = evaluated(set(), {0, 2})
    assert judge_report(found, line(Figure.CLASS_ACCURACY, 0.96)).outcome is Outcome.FITS
    over = judge_report(found, line(Figure.CLASS_ACCURACY, 0.97))
    assert only(over).value == "cat: 96.00 %"
    assert over.outcome is Outcome.OVER


def test_accuracy_has_a_least_value():
    assert judge_report(evaluated(set(), {1}), line(Figure.ACCURACY, 0.99)).outcome is Outcome.FITS
    assert judge_report(evaluated(set(), {1}), line(Figure.ACCURACY, 0.995)).outcome is Outcome.OVER


def test_changes_of_classes_that_had_no_image_right():
    before, after = accuracy_of(set(range(0, 100, 2))), accuracy_of(set())
    assert paired.class_changes(before, after) == {
        0: paired.Change(images=50, lost=0, gained=50),
        1: paired.Change(images=50, lost=0, gained=0),
    }


@settings(deadline=None)
@given(lost=st.integers(0, 30), gained=st.integers(0, 30))
def test_the_paired_test_is_mcnemars(lost, gained):
    change = paired.Change(images=100, lost=lost, gained=gained)
    expected = binomtest(lost, lost + gained, alternative="greater").pvalue if lost + gained else 1.0
    assert paired.excess_p(change, 0.0) == pytest.approx(expected)
    assert paired.excess_p(change, 0.05) >= paired.excess_p(change, 0.0) - 1e-9


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (7, 2), (3, 9), (700, 600), (4_000, 3_000)])
def test_the_two_sided_test_is_mcnemars_whatever_the_size(lost, gained):
    found = paired.Change(images=50_000, lost=lost, gained=gained)
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert paired.two_sided_p(found) == pytest.approx(expected, rel=1e-6)


def test_many_tests_ask_for_more():
    assert paired.holm([0.01, 0.5, 0.04, 0.02]) == pytest.approx([0.04, 0.5, 0.08, 0.06])
    assert paired.holm([]) == []


def test_false_alarms_of_the_paired_test_are_rare():
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        lost = int(generator.binomial(20, 0.5))
        alarms += paired.excess_p(paired.Change(images=500, lost=lost, gained=20 - lost), 0.0) < 0.025
    assert alarms <= 35


def test_a_warning_is_said_and_not_counted():
    verdict = judged(line(Figure.MODEL_SIZE, 1.0, warns=True))
    assert only(verdict).outcome is Outcome.OVER
    assert only(verdict).warns
    assert verdict.outcome is Outcome.FITS


def test_short_and_long_budgets_add_up_without_repeating_themselves():
    same = Limit(figure=Figure.MODEL_SIZE, value=5)
    budget = Budget(max_size_bytes=5, limits=(same, Limit(figure=Figure.MACS, value=5)))
    assert [limit.figure for limit in limits(budget)] == [Figure.MODEL_SIZE, Figure.MACS]


def of_metric(per_class: tuple[float | None, ...]) -> Accuracy:
    """A figure that is no share of images: nothing says which images are wrong."""
    known = [value for value in per_class if value is not None]
    mean = sum(known) / len(known)
    return Accuracy(
        metric="mIoU",
        top1=Interval(value=mean, low=mean - 0.02, high=mean + 0.02),
        images=200,
        per_class=per_class,
        predictions=(),
    )


@pytest.mark.parametrize(("limit", "outcome"), [(0.05, Outcome.FITS), (0.03, Outcome.OVER)])
def test_classes_of_other_metrics_are_compared_by_their_figure(limit, outcome):
    accuracy = {"dense": of_metric((0.9, 0.5, None)), "pruned": of_metric((0.91, 0.46, None))}
    report = replace(sample_report(), accuracy=accuracy)
    [check] = judge_report(report, line(Figure.CLASS_ACCURACY, limit, Basis.DENSE)).checks
    assert check.outcome is outcome
    assert "4.00 points" in check.value
    baseline = replace(report, accuracy={"dense": accuracy["dense"], "pruned": of_metric((0.93, 0.52, None))})
    against = judge_report(report, line(Figure.ACCURACY, limit, Basis.BASELINE), baseline=baseline)
    assert [check.outcome for check in against.checks] == [Outcome.FITS if limit > 0.04 else Outcome.OVER]


@pytest.mark.parametrize(("policy", "code"), [("fail", 4), ("warn", 0), ("pass", 0)])
def test_the_policy_decides_what_is_undecided(policy, code):
    undecided = judged(Budget(max_latency_ms=10.0), with_p50(9, 10, 11))
    assert exit_code(undecided, undecided=policy) == code
    assert exit_code(judged(Budget(max_size_bytes=1)), undecided=policy) == 3


def test_the_verdict_is_about_the_deployed_variant():
    report = quantized_report()
    budget = Budget(max_latency_ms=3.0)
    assert report.measurement.latency["pruned"].p50_ms.low > 3.0
    verdict = judge_report(report, budget)
    assert verdict.outcome is Outcome.FITS
    assert "4.00x faster" in verdict.sentence
    assert judge_report(replace(report, deployed="pruned"), budget).outcome is not Outcome.FITS
