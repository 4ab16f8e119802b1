"""A report as a build would make it, without a build: every figure is made up, and the same every time."""

from __future__ import annotations

import random
from dataclasses import replace

from edgeprune.records import (
    Accuracy,
    AccuracyChange,
    Artifact,
    Budget,
    Candidate,
    ChangedImage,
    Check,
    Finding,
    FrozenAxis,
    Interval,
    Latency,
    Measurement,
    Memory,
    OperatorTime,
    Outcome,
    Parity,
    Provenance,
    PruningPlan,
    Quantized,
    Report,
    Step,
    Target,
    Trajectory,
    Verdict,
    Width,
)

BUDGET = Budget(max_latency_ms=5.0, max_memory_bytes=120_000_000, max_accuracy_drop=0.015)
CHECKS = (
    Check(
        budget="latency p50",
        limit="5 ms",
        value="4.63 ms (95 % CI 4.58 to 4.71)",
        outcome=Outcome.FITS,
        reason="the whole interval is within the limit",
    ),
    Check(
        budget="peak memory, runtime included",
        limit="120 MB",
        value="97.3 MB",
        outcome=Outcome.FITS,
        reason="22.7 MB below the limit; 11.2 MB above the bare runtime",
    ),
    Check(
        budget="accuracy drop, top-1",
        limit="1.5 points",
        value="0.28 points (95 % CI -0.83 to 1.39)",
        outcome=Outcome.FITS,
        reason="measured on the whole evaluation set; exact McNemar p = 1",
    ),
)
SENTENCE = "Fits the budget: 2.13x faster (95 % CI 2.04 to 2.22) for -0.28 points top-1."


def sample_report(*, classes: int = 10, steps: int = 120) -> Report:
    """Return a report on a small residual network; its last class has no evaluation images."""
    generator = random.Random(7)  # noqa: S311 -- made-up figures, no secrets
    names = tuple(f"digit {k}" for k in range(classes))
    groups = _groups(steps)
    found = _findings(generator, groups)
    return Report(
        schema_version="1.0",
        target=Target(name="openvino", runtime="openvino", description="Any x86-64 or Arm CPU, OpenVINO"),
        budget=BUDGET,
        verdict=Verdict(outcome=Outcome.FITS, checks=CHECKS, sentence=SENTENCE),
        artifacts={"dense": _artifact("dense", 412_906), "pruned": _artifact("pruned", 173_450)},
        accuracy=_accuracies(generator, classes),
        accuracy_change=AccuracyChange(
            drop=Interval(value=0.00278, low=-0.0083, high=0.0139), lost=3, gained=2, p_value=1.0
        ),
        measurement=measurement(),
        plan=PruningPlan(
            removed={"stem.weight": (3, 5)}, param_ratio=0.5799, channel_ratio=0.3125, mac_ratio=0.5312
        ),
        widths=tuple(_width(name, units, found[name]) for name, units in groups.items()),
        findings=found,
        trajectory=_trajectory(generator, names, groups, steps),
        frozen=_frozen(),
        parity=_parity(),
        classes=names,
        splits={"calibration": 720, "validation": 179, "evaluation": 360},
        notes=("The images of 12 drawings lie in the data set twice; the second copies were left out.",),
        provenance=_provenance(),
        candidates=_candidates(),
        changed=_changed(classes),
    )


PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAGUlEQVR42mPQ0Pj/H4QZ4A"
    "wIpaGBYBChBgAwEyThK9sBaQAAAABJRU5ErkJggg=="
)


def _candidates() -> tuple[Candidate, ...]:
    places = ((0.0, 0.0, 0.991), (0.2, 0.25, 0.989), (0.41, 0.4, 0.985), (0.58, 0.53, 0.983))
    return tuple(
        Candidate(
            param_ratio=params,
            mac_ratio=macs,
            accuracy=Interval(value=top1, low=top1 - 0.011, high=top1 + 0.006),
            images=179,
            split="validation",
            latency_ms={0.0: 9.86, 0.58: 4.63}.get(params),
            measured=params in (0.0, 0.58),
            chosen=params == 0.58,
        )
        for params, macs, top1 in places
    )


def _changed(classes: int) -> tuple[ChangedImage, ...]:
    answers = ((3, 3, 4), (7, 7, 1), (5, 6, 5), (2, 1, 0))
    return tuple(
        ChangedImage(
            number=90 * i,
            label=label % classes,
            dense=dense % classes,
            deployed=after % classes,
            picture=PICTURE,
        )
        for i, (label, dense, after) in enumerate(answers)
    )


def quantized_report() -> Report:
    """Return the report of a build with 8 bits: four variants, the last one deployed."""
    report = sample_report()
    dense, pruned = report.accuracy["dense"], report.accuracy["pruned"]
    change, ratio = report.accuracy_change, Interval(value=0.25, low=0.24, high=0.26)
    names = ("dense", "pruned", "int8", "pruned+int8")
    times = {"dense": 9.86, "pruned": 4.63, "int8": 5.1, "pruned+int8": 2.4}
    return replace(
        report,
        artifacts={name: _artifact(name, 412_906 if "pruned" not in name else 173_450) for name in names},
        accuracy={"dense": dense, "pruned": pruned, "int8": dense, "pruned+int8": pruned},
        measurement=replace(
            report.measurement,
            latency={name: _latency(p50) for name, p50 in times.items()},
            memory={name: report.measurement.memory["pruned"] for name in names},
            ratio=ratio,
            ratios={
                "pruned": {"dense": report.measurement.ratio},
                "int8": {"pruned": Interval(value=1.1, low=1.0, high=1.2), "dense": ratio},
                "pruned+int8": {
                    "int8": Interval(value=0.47, low=0.45, high=0.5),
                    "pruned": ratio,
                    "dense": ratio,
                },
            },
        ),
        deployed="pruned+int8",
        accuracy_changes={
            "pruned": {"dense": change},
            "int8": {"dense": change, "pruned": change},
            "pruned+int8": {"dense": change, "pruned": change, "int8": change},
        },
        quantized={
            "int8": Quantized(method="NNCF 3.4.0", images=300, layers=22),
            "pruned+int8": Quantized(
                method="NNCF 3.4.0",
                images=300,
                layers=22,
                kept_float=("<stem>",),
                limit=0.01,
                drop=0.008,
                before_fallback=0.013,
            ),
        },
    )


def _groups(steps: int) -> dict[str, int]:
    """Units of each group, in the network's order: wide enough for so many steps."""
    base = max(16, 8 * (steps // 80))
    return {
        "stem.weight": base,
        **{f"stage{s}.{b}.conv1.weight": base * 2**s for s in range(3) for b in range(3)},
    }


def measurement() -> Measurement:
    return Measurement(
        latency={"dense": _latency(9.86), "pruned": _latency(4.63)},
        memory={
            "dense": Memory(peak_bytes=103_500_000, growth_bytes=17_400_000),
            "pruned": Memory(peak_bytes=97_300_000, growth_bytes=11_200_000),
        },
        ratio=Interval(value=0.4695, low=0.4505, high=0.4902),
        ratio_basis="cpu time",
        pairs=200,
        quality="noisy",
        noise=("other processes used 34 % of the CPU", "no governor can be read: a virtual machine"),
        operators={"dense": _operators(1.0), "pruned": _operators(0.47)},
        machine={"cpu": "Intel Xeon E5-2680 v4", "features": "avx2 fma", "openvino": "2026.4.1"},
    )


def _operators(factor: float) -> tuple[OperatorTime, ...]:
    times = (
        ("stage0.0.conv1", "Convolution", 1.9),
        ("stage1.0.conv1", "Convolution", 1.4),
        ("stem", "Convolution", 0.9),
    )
    return tuple(
        OperatorTime(name=name, kind=kind, time_ms=time * factor)
        for name, kind, time in (*times, ("head", "FullyConnected", 0.11), ("pool", "Pooling", 0.04))
    )


def _latency(p50_ms: float) -> Latency:
    return Latency(
        p50_ms=Interval(value=p50_ms, low=0.99 * p50_ms, high=1.017 * p50_ms),
        p90_ms=1.22 * p50_ms,
        p99_ms=1.9 * p50_ms,
        cpu_p50_ms=0.97 * p50_ms,
        load_ms=21.0 * p50_ms**0.5,
        first_ms=1.3 * p50_ms,
        runs=1_000,
        processes=5,
        threads=1,
    )


def _artifact(name: str, params: int) -> Artifact:
    return Artifact(
        path=f"{name}.xml",
        runtime="openvino",
        size_bytes=4 * params + 61_000,
        digest="sha256:" + name.encode().hex() * 5,
        input_name="image",
        input_shape=(1, 1, 32, 32),
        params=params,
        macs=101 * params,
    )


def _accuracies(generator: random.Random, classes: int) -> dict[str, Accuracy]:
    dense = [round(generator.uniform(0.92, 1.0), 3) for _ in range(classes)]
    pruned = [round(min(1.0, value + generator.choice((-0.028, 0.0, 0.0, 0.014))), 3) for value in dense]
    answers = [generator.randrange(classes) for _ in range(360)]
    changed = [answer if i % 90 else (answer + 1) % classes for i, answer in enumerate(answers)]
    return {
        "dense": Accuracy(
            top1=Interval(value=0.98611, low=0.968, high=0.994),
            images=360,
            per_class=(*dense[:-1], None),
            predictions=tuple(answers),
            wrong=(4, 8, 12, 13, 200),
        ),
        "pruned": Accuracy(
            top1=Interval(value=0.98333, low=0.9641, high=0.9923),
            images=360,
            per_class=(*pruned[:-1], None),
            predictions=tuple(changed),
            wrong=(0, 4, 8, 13, 90, 180),
        ),
    }


def _findings(generator: random.Random, groups: dict[str, int]) -> dict[str, dict[str, int]]:
    found = {}
    for name, units in groups.items():
        critical = round(units * generator.uniform(0.35, 0.9))
        detrimental = round((units - critical) * 0.15)
        found[name] = {
            Finding.CRITICAL.value: critical,
            Finding.NEUTRAL.value: units - critical - detrimental,
            Finding.DETRIMENTAL.value: detrimental,
        }
    return found


def _width(name: str, units: int, found: dict[str, int]) -> Width:
    return Width(group=name, before=units, after=min(units, -(-found["critical"] // 8) * 8))


def _trajectory(
    generator: random.Random, names: tuple[str, ...], groups: dict[str, int], steps: int
) -> Trajectory:
    tested = (*names[:-2], "+".join(names[-2:]))
    order = [(group, unit) for group, units in groups.items() for unit in range(units)]
    return Trajectory(
        method="c-swap",
        alpha=0.05,
        steps=tuple(_step(generator, group, unit, len(tested)) for group, unit in order[:steps]),
        class_names=tested,
        class_samples=tuple(generator.randrange(60, 75) for _ in tested),
        tolerance=tuple(round(generator.uniform(0.012, 0.03), 4) for _ in tested),
        dense_scores=tuple(0.97 for _ in tested),
        final_scores=tuple(round(0.97 - generator.uniform(-0.004, 0.011), 4) for _ in tested),
        final_z=tuple(round(generator.uniform(-1.6, 0.5), 3) for _ in tested),
        z_limits=tuple(-1.645 for _ in tested),
        stopped="every unit was tried",
    )


def _step(generator: random.Random, group: str, unit: int, classes: int) -> Step:
    worst_z = generator.gauss(-1.3, 0.7)
    removed = worst_z > -1.64
    finding = Finding.CRITICAL if not removed else generator.choice((Finding.NEUTRAL, Finding.DETRIMENTAL))
    return Step(
        group=group,
        units=(unit,),
        finding=finding,
        removed=removed,
        effect=worst_z / 100,
        worst_z=worst_z * (1 if removed else 1.5),
        worst_class=generator.randrange(classes),
        evaluated=720,
    )


def _frozen() -> tuple[FrozenAxis, ...]:
    return (
        FrozenAxis(parameter="head.weight", axis=0, indices=10, reason="reaches the output", detail="logits"),
        FrozenAxis(parameter="head.bias", axis=0, indices=10, reason="reaches the output", detail="logits"),
        FrozenAxis(parameter="stem.weight", axis=1, indices=1, reason="reads the input", detail="image"),
    )


def _parity() -> tuple[Parity, ...]:
    return tuple(
        Parity(stage=f"{name}: {hand_over}", error=error, limit=1e-3, images=32)
        for name in ("dense", "pruned")
        for hand_over, error in (("torch -> onnx", 3.1e-6), ("onnx -> openvino", 8.4e-6))
    )


def _provenance() -> Provenance:
    return Provenance(
        command="edgeprune build --target openvino --max-latency 5ms --max-accuracy-drop 1.5",
        versions={"edgeprune": "0.1.0", "python": "3.11.7", "torch": "2.15.0", "openvino": "2026.4.1"},
        model="digits-resnet",
        model_digest="sha256:" + "5f" * 32,
        data="digits",
        data_digest="sha256:" + "a3" * 32,
        config_digest="sha256:" + "0c" * 32,
        started="2026-11-21T04:12:00Z",
        seconds={"load": 0.8, "trace": 2.1, "walk": 18.4, "export": 3.2, "measure": 14.9, "report": 0.2},
    )
