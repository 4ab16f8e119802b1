"""One walk, several processes (`torchrun -m edgeprune prune ...`): each runs the shards of images it owns.

The first process builds; the others hold the same network and their part of the images, and evaluate the same
interventions with it. Scores go round after every few shards, so that all take the same decisions. Only
numbers travel, never objects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import distributed

from edgeprune import causal
from edgeprune.errors import ConfigError
from edgeprune.records import Doubles, Step

STEPS = TypeAdapter(tuple[Step, ...])
END = b"end"


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that share a walk, and which of them this one is."""

    rank: int
    size: int

    @property
    def at_once(self) -> int:
        """Shards that are evaluated side by side."""
        return self.size

    def owns(self, shard: causal.Shard) -> bool:
        return shard.number % self.size == self.rank

    def gather(
        self,
        scores: Callable[[causal.Shard], Doubles],
        shards: Sequence[causal.Shard],
        *,
        width: int | None = None,
    ) -> list[Doubles]:
        """What a function gives for each shard, from its owner: so many numbers, or one for each score."""
        sizes = [shard.scores.stop - shard.scores.start if width is None else width for shard in shards]
        parts = [
            scores(shard) if self.owns(shard) else np.zeros(size)
            for shard, size in zip(shards, sizes, strict=True)
        ]
        whole = torch.from_numpy(np.concatenate(parts).astype(np.float64))
        distributed.all_reduce(whole)  # one owner each, zeros from the others: the sum is exact
        return np.split(whole.numpy(), np.cumsum(sizes)[:-1])

    def agree(self, word: bytes) -> bytes:
        """The first process's word, for all."""
        length = torch.tensor([len(word)])
        distributed.broadcast(length, src=0)
        letters = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == 0:
            letters.copy_(torch.frombuffer(bytearray(word), dtype=torch.uint8))
        distributed.broadcast(letters, src=0)
        return letters.numpy().tobytes()


class Alone(causal.Alone):
    """The only process."""

    rank = 0

    def owns(self, shard: causal.Shard) -> bool:
        return True

    def agree(self, word: bytes) -> bytes:
        return word


Crew = Ranks | Alone


def join() -> Crew:
    """The processes that were started together with this one.

    Raises:
        ConfigError: they do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Alone()
    if not distributed.is_initialized():
        try:
            distributed.init_process_group("gloo")
        except (RuntimeError, ValueError) as err:
            message = str(err).partition("\n")[0]
            raise ConfigError(
                f"WORLD_SIZE={size}: the processes do not find each other ({message}); start them with "
                "`torchrun --nproc-per-node N -m edgeprune ...`, or unset WORLD_SIZE."
            ) from err
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def leading(crew: Crew) -> Iterator[None]:
    """While the first process builds; at the end, however it comes, the others may go home."""
    try:
        yield
    finally:
        crew.agree(END)
        if isinstance(crew, Ranks):
            distributed.destroy_process_group()


def agreed(crew: Crew, value: Any) -> Any:  # any JSON: lists, numbers, words
    """The first process's value, for all: what rounding on another machine must not decide differently."""
    return value if isinstance(crew, Alone) else json.loads(crew.agree(json.dumps(value).encode()))


def call(crew: Crew, recorded: Sequence[Step]) -> None:
    """Start a walk on all processes."""
    crew.agree(b"walk" + STEPS.dump_json(tuple(recorded)))
