"""Units chosen for budgets: never worse than any other choice, as trying all of them shows."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune import knapsack
from edgeprune.knapsack import Ladder

rungs = st.lists(st.floats(0.01, 5.0), min_size=1, max_size=3)


@st.composite
def ladders(draw):
    found = []
    for number in range(draw(st.integers(1, 4))):
        damages, times, sizes = [], [], []
        for damage in draw(rungs):
            damages.append(damage + (damages[-1] if damages else 0.0))
            times.append(draw(st.floats(0.1, 2.0)) + (times[-1] if times else 0.0))
            sizes.append(draw(st.floats(0.1, 2.0)) + (sizes[-1] if sizes else 0.0))
        savings = {"latency": tuple(times), "size": tuple(sizes)}
        found.append(Ladder(group=str(number), damages=tuple(damages), savings=savings))
    return found


def outcome(found: list[Ladder], chosen: dict[str, int]) -> tuple[float, float, float]:
    """Damage, and what is saved of the two resources."""
    places = [(ladder, chosen[ladder.group] - 1) for ladder in found if chosen.get(ladder.group)]
    damage = sum(ladder.damages[rung] for ladder, rung in places)
    time, size = (sum(x.savings[name][rung] for x, rung in places) for name in ("latency", "size"))
    return damage, time, size


@settings(max_examples=60, deadline=None)
@given(ladders(), st.floats(0.1, 6.0), st.floats(0.1, 6.0))
def test_no_other_choice_does_less_damage(found, time, size):
    chosen = knapsack.choose(found, {"latency": time, "size": size})
    every = [
        outcome(found, {ladder.group: rung for ladder, rung in zip(found, combination, strict=True)})
        for combination in itertools.product(*(range(len(ladder.damages) + 1) for ladder in found))
    ]
    enough = [each[0] for each in every if each[1] >= time + 1e-6 and each[2] >= size + 1e-6]
    if chosen is None:
        assert not enough
        return
    damage, saved_time, saved_size = outcome(found, chosen)
    assert saved_time >= time - 1e-5
    assert saved_size >= size - 1e-5
    if enough:
        assert damage <= min(enough) * (1 + 2 * knapsack.GAP) + 1e-6


def test_nothing_is_taken_where_nothing_is_needed():
    ladder = Ladder(group="a", damages=(1.0,), savings={"latency": (1.0,)})
    assert knapsack.choose([ladder], {"latency": 0.0}) == {}
    assert knapsack.choose([ladder], {"latency": 1.5}) is None
    assert knapsack.choose([], {"latency": 0.1}) is None


def test_a_cap_is_kept():
    cheap = Ladder(group="a", damages=(1.0,), savings={"latency": (1.0,), "params": (5.0,)})
    dear = Ladder(group="b", damages=(3.0,), savings={"latency": (1.0,), "params": (1.0,)})
    assert knapsack.choose([cheap, dear], {"latency": 1.0}) == {"a": 1}
    assert knapsack.choose([cheap, dear], {"latency": 1.0}, {"params": 2.0}) == {"b": 1}


def test_units_of_unknown_damage_go_last_and_no_more_than_are_needed():
    unknown = Ladder(group="a", damages=(math.inf, math.inf), savings={"latency": (1.0, 2.0)})
    known = Ladder(group="b", damages=(3.0, 50.0), savings={"latency": (1.0, 2.0)})
    assert knapsack.choose([unknown, known], {"latency": 2.0}) == {"b": 2}
    assert knapsack.choose([unknown, known], {"latency": 3.0}) == {"a": 1, "b": 2}
    assert knapsack.choose([unknown], {"latency": 1.0}) == {"a": 1}
