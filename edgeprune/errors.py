"""What can go wrong, as a tree.

EdgepruneError            exit code 1 unless said otherwise; one line: what, where, what to do
├── InputError            a file, flag or value the user gave
│   ├── ConfigError       edgeprune.toml or a flag
│   ├── ModelError        weights, architecture, tracing
│   ├── DataError         images, labels, calibration files
│   └── TargetError       target profiles
├── NothingToPrune        every channel is frozen (the message gives the reasons)
├── ParityError           two stages disagree numerically (the message names the stage)
├── RunFolderError        the run folder cannot be written or belongs to another build
├── JournalError          what an interrupted walk left is of another one: the walk starts again
└── TargetUnreachable     the target or its runtime is missing; exit code 5

Over budget is a result, not an error (exit code 3), and so is an undecided gate (exit code 4).
"""

from __future__ import annotations


class EdgepruneError(Exception):
    """Something the user can fix; `exit_code` is what the command ends with."""

    exit_code = 1


class InputError(EdgepruneError):
    """A file, flag or value the user gave is wrong."""


class ConfigError(InputError):
    """edgeprune.toml or a flag is wrong."""


class ModelError(InputError):
    """A network cannot be loaded, traced or run."""


class DataError(InputError):
    """Images, labels or their description are wrong."""


class TargetError(InputError):
    """A target profile is unknown or wrong."""


class NothingToPrune(EdgepruneError):  # noqa: N818  # a result as much as an error
    """Every channel of the network is frozen."""


class ParityError(EdgepruneError):
    """Two stages of the pipeline give different outputs for the same images."""


class RunFolderError(EdgepruneError):
    """The run folder cannot be written, or another build holds it."""


class JournalError(EdgepruneError):
    """The steps of an interrupted walk do not fit this one."""


class TargetUnreachable(EdgepruneError):  # noqa: N818  # says what is the matter
    """The target, or the runtime it needs, is not there."""

    exit_code = 5
