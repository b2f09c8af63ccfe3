"""Queries judged by execution, and the questions they answer."""

from __future__ import annotations

import time

import pytest

from equipoise import tasks
from equipoise.verify.sql import execution
from equipoise.verify.verdicts import Item

GOLD = "SELECT team FROM people WHERE points > 50"


def status(text: str, gold: str = GOLD) -> str:
    return execution([Item("q", text, gold)], {"limit_s": 0.1})[0].status


@pytest.mark.parametrize(
    "text, wanted",
    [
        (f"filter points: {GOLD};", "right"),
        ("SELECT team FROM people WHERE NOT points <= 50 ORDER BY city", "right"),  # multisets: any order
        ("SELECT team FROM people WHERE points > 49 AND points <> 50", "right"),
        ("SELECT DISTINCT team FROM people WHERE points > 50", "wrong"),
        ("SELECT team FROM people WHERE points > 40", "wrong"),
        ("SELECT team FROM people WHERE points > 500", "wrong"),  # empty
        ("SELECT nothing FROM nowhere", "wrong"),
        ("DROP TABLE people", "unparsed"),
        ("I do not know", "unparsed"),
    ],
)
def test_verdicts(text: str, wanted: str) -> None:
    assert status(text) == wanted


def test_order_counts_where_the_gold_query_orders() -> None:
    gold = "SELECT points FROM people ORDER BY points"
    assert status(gold, gold) == "right" and status("SELECT points FROM people", gold) == "wrong"


def test_an_endless_query_ends_at_the_limit() -> None:
    started = time.monotonic()
    many = ", ".join(f"people p{i}" for i in range(9))
    assert status(f"SELECT COUNT(*) FROM {many}") == "wrong" and time.monotonic() - started < 3


def test_a_gold_query_that_fails_or_returns_nothing_is_a_failure_of_the_data() -> None:
    assert status(GOLD, "SELECT x FROM y") == "error"
    assert status(GOLD, "SELECT team FROM people WHERE points > 500") == "error"


@pytest.mark.parametrize("difficulty", [1, 2, 3])
def test_demonstrations_are_right_in_the_pool(difficulty: int) -> None:
    task = tasks.load("sql", difficulty=difficulty, train=40)
    prompts = list(task.splits["train"])
    assert task.verify is not None and task.demonstrate is not None and task.close is not None
    scores = task.verify(prompts, [str(task.demonstrate(p)) for p in prompts])
    task.close()
    assert {s.status for s in scores} == {"right"} and len(prompts) > 20
