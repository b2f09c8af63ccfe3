"""Queries judged by what they return, on several random databases each. Runs in a worker process."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

from equipoise.verify.verdicts import UNPARSED, Item, Options, Verdict, error, judged

DATABASES, ROWS, TRIES = 4, 20, 24
STEPS = 1000  # virtual machine instructions between two looks at the clock
MOST_ROWS = 1000
READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
PLACES, TEAMS = ("Oslo", "Rome", "Lima", "Cairo", "Perth"), ("red", "blue", "green")
Rows = list[tuple[object, ...]]


def database(seed: str) -> sqlite3.Connection:
    """One table, people(city, team, points), of random rows; from then on only reading is allowed."""
    rng, made = random.Random(seed), sqlite3.connect(":memory:")
    made.execute("CREATE TABLE people (city TEXT, team TEXT, points INTEGER)")
    rows = [(rng.choice(PLACES), rng.choice(TEAMS), rng.randrange(100)) for _ in range(ROWS)]
    made.executemany("INSERT INTO people VALUES (?, ?, ?)", rows)
    made.commit()
    made.execute("PRAGMA query_only = ON")
    made.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in READS else sqlite3.SQLITE_DENY)
    return made


def result(made: sqlite3.Connection, query: str, limit_s: float) -> Rows:
    """Rows of a query. Raises sqlite3.Error where it is none, writes, or takes longer than ``limit_s``."""
    until = time.monotonic() + limit_s
    made.set_progress_handler(lambda: time.monotonic() > until, STEPS)
    rows = made.execute(query).fetchmany(MOST_ROWS + 1)
    if len(rows) > MOST_ROWS:
        raise sqlite3.DataError(f"more than {MOST_ROWS} rows")
    return rows


def query_of(text: str) -> str | None:
    """The last SELECT of a reply, to its end or its semicolon."""
    found = re.findall(r"\bselect\b(?:(?!\bselect\b)[^;])*", text, re.IGNORECASE | re.DOTALL)
    return " ".join(found[-1].split()) if found else None


def execution(items: Sequence[Item], options: Options) -> list[Verdict]:
    """Right if a reply's query returns what the row's answer does, on each of several databases where that is not
    empty: as multisets of rows, in order only where the answer orders them."""
    return [_one(item, float(options.get("limit_s", 0.2))) for item in items]


def _one(item: Item, limit_s: float) -> Verdict:
    query, gold = query_of(item.text), str(item.answer)
    if query is None:
        return UNPARSED
    told = 0
    for k in range(TRIES):
        made = database(f"{gold}/{k}")
        try:
            wanted = result(made, gold, 10 * limit_s)
        except sqlite3.Error as fault:
            return error(f"the row's query {gold!r} fails: {fault}")
        if not wanted:
            continue  # nothing to tell a right query from an empty one
        try:
            found = result(made, query, limit_s)
        except (sqlite3.Error, sqlite3.Warning):
            return judged(False, query)
        finally:
            made.close()
        ordered = "order by" in gold.casefold()
        if not (found == wanted if ordered else Counter(found) == Counter(wanted)):
            return judged(False, query)
        told += 1
        if told == DATABASES:
            break
    return judged(True, query) if told else error(f"the row's query {gold!r} returns nothing on {TRIES} databases")
