#!/usr/bin/env python3
"""Feed every reader of foreign files with inputs that are almost right: no trace, no hang, no heap of memory.

    scripts/fuzz.py                          # 100,000 inputs and more in all, an hour or so
    scripts/fuzz.py --inputs 2000 --only csv npz

Hypothesis chooses the inputs: three of four are valid ones with something wrong, the others bytes, text and
JSON from nothing. What breaks a reader is kept in tests/hostile/corpus, which the tests read. Exits with 1
where anything broke.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing import MOST_MEMORY, MOST_SECONDS, SUBJECTS, Subject, coupling, holds, limit_memory, mutated  # noqa: E402

CORPUS = ROOT / "tests" / "hostile" / "corpus"
SLOW_SHARE = 0.25
"""Of the inputs of a quick subject."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one subject's inputs."""

    subject: str
    inputs: int
    seconds: float
    slowest_s: float
    peak_mib: float
    broke: str = ""


def inputs(subject: Subject) -> st.SearchStrategy[bytes]:
    seeds = subject.seeds()
    changed = st.builds(
        lambda seed, number: mutated(seeds[seed], subject.words, random.Random(number)),  # noqa: S311 - no secret
        st.integers(0, len(seeds) - 1),
        st.integers(0, 2**63),
    )
    made = st.one_of(st.binary(max_size=200), st.text(max_size=80).map(lambda text: text.encode()), texts())
    return st.one_of(changed, changed, changed, made)


def texts() -> st.SearchStrategy[bytes]:
    """JSON of any shape."""
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    nested = st.recursive(
        plain,
        lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=8), some, max_size=4),
    )
    return nested.map(lambda value: json.dumps(value).encode())


def fuzz(name: str, subject: Subject, count: int, folder: Path) -> Result:
    """Feed one subject, in this process; its files replace each other in the folder."""
    seen = {"inputs": 0, "slowest": 0.0, "content": b""}

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(subject))
    def feed(content: bytes) -> None:
        seen["content"] = content
        with at_most():
            begin = time.process_time()
            holds(subject, content, folder)
            seen["slowest"] = max(seen["slowest"], time.process_time() - begin)
        seen["inputs"] += 1

    begin, broke = time.perf_counter(), ""
    try:
        feed()
    except BaseException as err:
        if isinstance(err, KeyboardInterrupt):
            raise
        broke = f"{type(err).__name__}: {str(err)[:200]}"
        keep(name, seen["content"])
    return Result(
        subject=name,
        inputs=int(seen["inputs"]),
        seconds=time.perf_counter() - begin,
        slowest_s=seen["slowest"],
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        broke=broke,
    )


@contextmanager
def at_most() -> Iterator[None]:
    """Raise after MOST_SECONDS of CPU time; end the process where it waits for ever."""

    def late(*_: object) -> None:
        raise AssertionError(f"took longer than {MOST_SECONDS} s")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    faulthandler.dump_traceback_later(60 * MOST_SECONDS, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def keep(name: str, content: bytes) -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    place = CORPUS / f"{name.replace(' ', '-')}.{sha256(content).hexdigest()[:8]}"
    place.write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--inputs", type=int, default=9000, help="of each quick subject; slow ones get a quarter"
    )
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS))
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    asked = parser.parse_args()
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", HypothesisWarning)  # about the length of inputs
    for library in ("torch", "onnxruntime", "openvino"):  # before the limit, and once
        __import__(library)
    results = []
    for name in asked.only or SUBJECTS:
        subject = SUBJECTS[name]
        count = max(1, round(asked.inputs * (SLOW_SHARE if subject.slow else 1)))
        subject.seeds()
        coupling()
        if not results:
            limit_memory(MOST_MEMORY)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            results.append(fuzz(name, subject, count, Path(folder)))
        show(results[-1])
    total = sum(result.inputs for result in results)
    print(f"{total:,} inputs, {sum(bool(result.broke) for result in results)} subjects broke")
    if asked.out:
        asked.out.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return any(result.broke for result in results)


def show(result: Result) -> None:
    print(
        f"{result.subject:18} {result.inputs:7,} inputs, slowest {result.slowest_s:5.2f} s of CPU time, "
        f"peak {result.peak_mib:5.0f} MiB  {result.broke or 'held'}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
