"""Long runs of random cases, in parts that each have a seed: how far a run has come is seen, and a part can be repeated alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy, tuples


def many(case: Callable[..., object], count: int, part: int, *strategies: SearchStrategy[Any]) -> int:
    """Runs `case` on `count` draws of the strategies, those of seed `part`; gives how many were run to their end."""
    done = 0

    @seed(part)
    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate, Phase.shrink])
    @given(tuples(*strategies))
    def run(drawn: tuple[Any, ...]) -> None:
        nonlocal done
        case(*drawn)
        done += 1

    run()
    return done
