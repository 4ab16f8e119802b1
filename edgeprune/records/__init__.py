"""What passes between rooms, in the order of making. Frozen data, no behaviour beyond sums.

Units live in the names: `_ms`, `_bytes`, `_ratio` (removed share, in [0, 1]). Accuracies are in [0, 1];
an accuracy drop is absolute, in points (percent) where a user types it and in [0, 1] inside records.

    asked.py      what the user asks for, and what goes in
    found.py      what can be cut, and what the walk finds
    measured.py   what is deployed, how it was measured, and what comes out
"""

from edgeprune.records.asked import (
    Budget,
    CalibrationSet,
    Floats,
    InputSpec,
    Ints,
    Preprocess,
    Sample,
    Split,
    Target,
)
from edgeprune.records.found import (
    ChannelGroup,
    Finding,
    FrozenAxis,
    Pruning,
    PruningPlan,
    Slot,
    Step,
    Trajectory,
    Width,
)
from edgeprune.records.measured import (
    Accuracy,
    AccuracyChange,
    Artifact,
    Check,
    Export,
    Interval,
    Latency,
    Measurement,
    Memory,
    Outcome,
    Parity,
    Provenance,
    Report,
    Verdict,
)

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "Artifact",
    "Budget",
    "CalibrationSet",
    "ChannelGroup",
    "Check",
    "Export",
    "Finding",
    "Floats",
    "FrozenAxis",
    "InputSpec",
    "Interval",
    "Ints",
    "Latency",
    "Measurement",
    "Memory",
    "Outcome",
    "Parity",
    "Preprocess",
    "Provenance",
    "Pruning",
    "PruningPlan",
    "Report",
    "Sample",
    "Slot",
    "Split",
    "Step",
    "Target",
    "Trajectory",
    "Verdict",
    "Width",
]
