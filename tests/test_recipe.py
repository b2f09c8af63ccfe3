"""A recipe is checked when it is built: what a part needs must be given before it."""

from __future__ import annotations

import pytest

from equipoise.budget import Budget
from equipoise.errors import ArgumentError
from equipoise.protocols import Part
from equipoise.recipe import _PROVIDERS, Recipe, Stage, Stream, constant
from equipoise.types import Loss, Objective


def part(name: str, needs: tuple[str, ...] = (), gives: tuple[str, ...] = ()) -> Part:
    return Part(name, lambda ctx, groups, state: (groups, state), frozenset(needs), frozenset(gives))


def taker(*needs: str) -> Objective:
    return Objective(lambda out, batch: Loss(out.logp), "hungry", "none", needs=frozenset(needs))


def build(*stages: Stage) -> Recipe:
    return Recipe("mine", stages, Budget(flops=1.0))


def stage(stream: Stream, until: float = 1.0) -> Stage:
    return Stage([stream], constant(1.0), until, name="first")


@pytest.mark.parametrize("need", _PROVIDERS)
def test_what_nothing_gives_is_told_with_who_needs_it_and_who_gives_it(need: str) -> None:
    source = part("empty")
    with pytest.raises(ArgumentError) as told:
        build(stage(Stream(source, taker(need))))
    for said in ("mine, stage first", "'hungry'", repr(need), _PROVIDERS[need]):
        assert said in str(told.value)
    with pytest.raises(ArgumentError, match="'wants'"):
        build(stage(Stream(source, taker(), credit=part("wants", (need,)))))


@pytest.mark.parametrize("need", _PROVIDERS)
def test_what_is_given_before_satisfies_and_what_is_given_after_does_not(need: str) -> None:
    gives, wants = part("gives", gives=(need,)), part("wants", (need,))
    build(stage(Stream(gives, taker(need))))
    build(stage(Stream(gives, None, wants)))
    with pytest.raises(ArgumentError, match="'wants'"):
        build(stage(Stream(part("empty"), taker(need), signal=wants, credit=gives)))


def test_what_the_engine_gives_is_not_asked_of_parts() -> None:
    build(stage(Stream(part("empty"), taker("logp:start", "entropy", "head:value"))))


@pytest.mark.parametrize("ends", [[], [0.0], [0.6, 0.5], [0.5, 1.5]])
def test_stages_end_at_rising_shares_of_the_budget(ends: list[float]) -> None:
    with pytest.raises(ArgumentError, match="rising shares"):
        build(*[stage(Stream(part("empty"), None), until) for until in ends])
