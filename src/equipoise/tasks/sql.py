"""Questions about a table, answered by a query that is executed on random databases.

people(city, team, points). How many in Oslo?
    ->    filter city, count: SELECT COUNT(*) FROM people WHERE city = 'Oslo'
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from equipoise.tasks.procedural import ask, between, build, verdict
from equipoise.types import Prompt, Task
from equipoise.verify import from_pool
from equipoise.verify.pool import Pool, Settings
from equipoise.verify.sql import PLACES, TEAMS

Made = tuple[str, str, str]  # question, what its clauses do, query


def task(
    difficulty: int = 1, deadline_s: float = 10.0, train: int = 400, validation: int = 50, test: int = 100
) -> Task:
    """Questions about one table; there are few of one condition.

    difficulty: 1, one condition; 2, also groups; 3, also two conditions and orders. deadline_s: seconds that a call of
    the verifier may take. train, validation, test: prompts of these splits, at most."""
    between("sql.difficulty", difficulty, 1, 3)
    kinds: list[Callable[[random.Random], Made]] = [_count, _extreme, _list, *([_each] * (difficulty > 1))]
    kinds += [_both, _order] if difficulty > 2 else []

    def make(rng: random.Random) -> Prompt:
        question, trace, query = rng.choice(kinds)(rng)
        return ask(f"people(city, team, points). {question}", query, trace=trace)

    made = build(
        "sql",
        "Answer questions about a table by a query, executed on random databases.",
        make=make,
        verify=lambda prompt, text: verdict(False, None),
        demonstrate=lambda prompt: f"{prompt.meta['trace']}: {prompt.answer}",
        max_new_tokens=96,
        sizes={"train": train, "validation": validation, "test": test},
        knobs={"difficulty": difficulty},
    )
    pool = Pool("equipoise.verify.sql:execution", {}, Settings(deadline_s=deadline_s))
    return replace(made, verify=from_pool(pool), close=pool.close)


def _filter(rng: random.Random) -> tuple[str, str, str]:
    """A condition in words, its column, and in SQL."""
    kind, bound = rng.randrange(3), rng.randrange(10, 90)
    if kind == 0:
        place = rng.choice(PLACES)
        return f"in {place}", "city", f"city = '{place}'"
    if kind == 1:
        team = rng.choice(TEAMS)
        return f"of team {team}", "team", f"team = '{team}'"
    return f"with more than {bound} points", "points", f"points > {bound}"


def _count(rng: random.Random) -> Made:
    words, column, where = _filter(rng)
    return f"How many {words}?", f"filter {column}, count", f"SELECT COUNT(*) FROM people WHERE {where}"


def _extreme(rng: random.Random) -> Made:
    words, column, where = _filter(rng)
    name, function = rng.choice([("Most", "MAX"), ("Fewest", "MIN"), ("Sum of", "SUM")])
    query = f"SELECT {function}(points) FROM people WHERE {where}"
    return f"{name} points {words}?", f"filter {column}, {function.lower()} points", query


def _list(rng: random.Random) -> Made:
    words, column, where = _filter(rng)
    wanted = rng.choice(["city", "team"])
    return (
        f"List the {wanted} of all {words}.",
        f"filter {column}, {wanted}",
        f"SELECT {wanted} FROM people WHERE {where}",
    )


def _each(rng: random.Random) -> Made:
    words, column, where = _filter(rng)
    by = rng.choice(["city", "team"])
    query = f"SELECT {by}, COUNT(*) FROM people WHERE {where} GROUP BY {by}"
    return f"How many {words} for each {by}?", f"filter {column}, group {by}, count", query


def _both(rng: random.Random) -> Made:
    place, team = rng.choice(PLACES), rng.choice(TEAMS)
    query = f"SELECT COUNT(*) FROM people WHERE city = '{place}' AND team = '{team}'"
    return f"How many in {place} of team {team}?", "filter city, team, count", query


def _order(rng: random.Random) -> Made:
    words, column, where = _filter(rng)
    query = f"SELECT points FROM people WHERE {where} ORDER BY points"
    return f"Points of all {words}, from low to high.", f"filter {column}, points, order", query
