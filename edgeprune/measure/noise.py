"""What disturbed a measurement, in words; pure functions of what the worker saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from edgeprune.measure.stats import RUNS_FOR_P90
from edgeprune.measure.worker import Answer
from edgeprune.records import Interval, Latency

LEAST_CPU_SHARE = 0.95
MOST_PRESSURE = 0.1
MOST_STOLEN = 0.01
MOST_SWITCHES_PER_SECOND = 50.0
MOST_DRIFT = 0.03
WIDEST_RATIO = 0.1
WIDEST_P50 = 0.2
"""Width of a 95 % interval over its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """One thing that made the figures less sure."""

    sentence: str
    serious: bool
    """The figures may be wrong because of it; otherwise it is good to know."""


def machine(*, load_average: float, cores: int, governor: str, pressure: float | None) -> list[Disturbance]:
    """Return what is wrong with a machine before anything is measured on it.

    Args:
        pressure: Share of time in which some process waited for a CPU, in [0, 1].
    """
    found = []
    if load_average > cores:
        found.append(_mild(f"load average {load_average:.1f} on {cores} cores"))
    if governor not in ("performance", "unknown"):
        found.append(_mild(f"frequency governor `{governor}`: the clock varies; `performance` holds it"))
    if pressure is not None and pressure > MOST_PRESSURE:
        found.append(_serious(f"processes waited for a CPU {pressure:.0%} of the time"))
    return found


def processes(answers: Sequence[Answer], *, threads: int) -> list[Disturbance]:
    """Return what disturbed the worker's processes while they took samples."""
    grown = Counter[str]()
    for answer in answers:
        grown.update(answer["counters"])
    return [
        *_machine_meanwhile(answers, grown),
        *_share_of_cpu(grown, threads),
        *_limits(grown),
        *_clock(answers, grown),
    ]


def spread(latencies: Mapping[str, Latency], ratio: Interval) -> list[Disturbance]:
    """Return which figures came out too wide or rest on too few runs."""
    found = []
    if _width(ratio) > WIDEST_RATIO:
        found.append(_serious(f"the latency ratio is only known to {_width(ratio) / 2:.0%} either way"))
    for name, latency in latencies.items():
        if _width(latency.p50_ms) > WIDEST_P50:
            width = f"{_width(latency.p50_ms) / 2:.0%}"
            found.append(_serious(f"{name}: the p50 is only known to {width} either way"))
        if latency.runs < RUNS_FOR_P90:
            found.append(
                _mild(f"{name}: {latency.runs} runs are few for a p90 ({RUNS_FOR_P90} make it sure)")
            )
    return found


def _machine_meanwhile(answers: Sequence[Answer], grown: Mapping[str, float]) -> list[Disturbance]:
    about = answers[-1]["machine"]
    return machine(
        load_average=max(answer["load_average"] for answer in answers),
        cores=int(about["cores"]) if about["cores"].isdigit() else 1,
        governor=about["governor"],
        pressure=_share(grown, "pressure_seconds", "wall_seconds"),
    )


def _share_of_cpu(grown: Mapping[str, float], threads: int) -> list[Disturbance]:
    found = []
    share = _share(grown, "cpu_seconds", "wall_seconds")
    if threads == 1 and share is not None and share < LEAST_CPU_SHARE:
        found.append(_serious(f"the network had a CPU only {share:.0%} of the time: wall times are too long"))
    switches = _share(grown, "involuntary_switches", "wall_seconds")
    if switches is not None and switches > MOST_SWITCHES_PER_SECOND:
        found.append(_serious(f"other processes interrupted it {switches:.0f} times a second"))
    return found


def _limits(grown: Mapping[str, float]) -> list[Disturbance]:
    found = []
    stolen = _share(grown, "stolen_ticks", "ticks")
    if stolen is not None and stolen > MOST_STOLEN:
        found.append(_serious(f"the virtual machine's host took {stolen:.1%} of the CPU time"))
    throttled = grown.get("throttled_periods", 0.0)
    if throttled > 0:
        found.append(_serious(f"the container's CPU limit held it back {throttled:.0f} times"))
    return found


def _clock(answers: Sequence[Answer], grown: Mapping[str, float]) -> list[Disturbance]:
    """What heat, a weak supply or the turbo did to the CPU's clock."""
    found = []
    if grown.get("heat_throttles", 0.0) + grown.get("firmware_throttles", 0.0) > 0:
        found.append(_serious("heat or a weak supply held the CPU's clock back"))
    probes = [answer["probe_ms"] for answer in answers if answer.get("probe_ms")]
    drifts = [after / before for before, after in probes if before]
    if drifts and median(drifts) > 1 + MOST_DRIFT:
        found.append(
            _serious(f"the CPU got {median(drifts) - 1:.0%} slower while it ran: heat, or its turbo")
        )
    return found


def _share(grown: Mapping[str, float], part: str, whole: str) -> float | None:
    if part not in grown or not grown.get(whole):
        return None
    return grown[part] / grown[whole]


def _width(interval: Interval) -> float:
    return (interval.high - interval.low) / interval.value


def _serious(sentence: str) -> Disturbance:
    return Disturbance(sentence=sentence, serious=True)


def _mild(sentence: str) -> Disturbance:
    return Disturbance(sentence=sentence, serious=False)
