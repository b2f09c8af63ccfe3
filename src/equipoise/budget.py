"""Budgets, prices and the ledger: everything is charged once, before it is spent, and what was not needed comes back.

Units: a generated token is any sampled token, the end token included, in training, preflight and scheduled
evaluation. A trained token carries a loss; it counts once per pass. FLOPs: 2 per parameter and token forward, 6 with
backward, plus attention and recomputation. A label is one demonstration, preference or rating shown once. The final
test is recorded and not charged. Work redone after a crash is recorded as lost and not charged twice.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from equipoise.errors import BudgetError
from equipoise.types import Cost

UNITS = ("generated_tokens", "trained_tokens", "flops", "usd", "labels", "seconds")


@dataclass(frozen=True)
class Prices:
    """US dollars. The default per FLOP is an H100 at 2 USD an hour and 40% of its 989 TFLOP/s in bf16."""

    flop: float = 2.0 / 3600 / (0.4 * 989e12)
    demonstration: float = 0.50
    preference: float = 0.20
    rating: float = 0.10
    judge_call: float = 0.002

    def usd(self, cost: Cost) -> float:
        """The money that ``cost`` stands for."""
        labels = sum(count * getattr(self, kind) for kind, count in cost.labels.items())
        return float(cost.flops * self.flop + labels + cost.judge_calls * self.judge_call)


@dataclass(frozen=True)
class Budget:
    """Limits on any unit; None is no limit. The first one reached stops the run."""

    generated_tokens: int | None = None
    trained_tokens: int | None = None
    flops: float | None = None
    usd: float | None = None
    labels: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for unit, limit in self.limits().items():
            if not 0 < limit < float("inf"):
                raise BudgetError(
                    f"--budget.{flag(unit)} is {limit:g}; expected a number above 0. Leave the flag out for no limit."
                )

    def limits(self) -> dict[str, float]:
        """The limits that are set, by unit."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def __str__(self) -> str:
        return ", ".join(f"{show(limit)} {unit.replace('_', ' ')}" for unit, limit in self.limits().items())


def flag(unit: str) -> str:
    """A unit as it is spelled on the command line."""
    return unit.replace("_", "-")


def show(x: float) -> str:
    """A quantity for people: 1,234 or 1.2e+15."""
    return f"{x:,.0f}" if 100 <= abs(x) < 1e9 or (x == int(x) and abs(x) < 1e9) else f"{x:.3g}"


def amounts(cost: Cost, prices: Prices) -> dict[str, float]:
    """A cost in every unit of a budget."""
    return {
        "generated_tokens": cost.generated_tokens,
        "trained_tokens": cost.trained_tokens,
        "flops": cost.flops,
        "usd": prices.usd(cost),
        "labels": sum(cost.labels.values()),
        "seconds": cost.seconds,
    }


@dataclass
class Ledger:
    """What was charged, against a budget; with ``file``, a journal of every charge and refund.

    ``ceiling`` is the share of every limit that may be spent for now (a stage's part of the budget).
    """

    budget: Budget
    prices: Prices = field(default_factory=Prices)
    file: IO[str] | None = None
    clock: Callable[[], float] = time.monotonic
    ceiling: float = 1.0
    by: dict[str, Cost] = field(default_factory=dict)  # purpose -> cost
    lost: Cost = field(default_factory=Cost)
    step: int = 0
    advances: list[Advance] = field(default_factory=list)  # reserved by draws for later steps, in their order
    _started: float | None = None
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spent(self) -> Cost:
        """Everything charged so far, seconds included."""
        total = sum(self.by.values(), Cost())
        return total + Cost(seconds=self._running())

    def _running(self) -> float:
        return 0.0 if self._started is None else self.clock() - self._started

    def start_clock(self) -> None:
        """Seconds count from here until ``stop_clock``."""
        self._started = self.clock()

    def stop_clock(self) -> None:
        """Book the seconds since ``start_clock``."""
        seconds, self._started = self._running(), None
        self.by["clock"] = self.by.get("clock", Cost()) + Cost(seconds=seconds)

    def charge(self, what: str, cost: Cost) -> None:
        """Book ``cost`` under a purpose."""
        self.by[what] = self.by.get(what, Cost()) + cost
        self.journal(self.step, "charge", what, cost)

    def reserve(self, bounds: Sequence[Cost]) -> tuple[int, Cost]:
        """Charge the longest prefix of ``bounds`` that fits, until ``settle``; say how many and how much that was.

        What draws for later steps have reserved is taken as spent: this waits until they are done."""
        for advance in self.advances:
            advance.ready()
        held = sum((a.reserved for a in self.advances), self.spent)
        fitting, total = self.fitting(held, self.ceiling, bounds)
        if fitting:
            self.charge("reserved", total)
        return fitting, total

    def fitting(self, spent: Cost, ceiling: float, bounds: Sequence[Cost]) -> tuple[int, Cost]:
        """How many of ``bounds`` fit below a share of the limits when ``spent`` is gone, and their sum."""
        have, limits = amounts(spent, self.prices), self.budget.limits()
        fitting, total = 0, Cost()
        for bound in bounds:
            wanted = amounts(total + bound, self.prices)
            if any(have[u] + wanted[u] > ceiling * limit for u, limit in limits.items()):
                break
            fitting, total = fitting + 1, total + bound
        return fitting, total

    def advance(self, step: int) -> Advance:
        """The ledger as a draw for a later step may see it, whatever is booked here meanwhile."""
        self.advances.append(Advance(self, step, self.spent, self.ceiling, tuple(self.advances)))
        return self.advances[-1]

    def join(self, advance: Advance) -> None:
        """The draw's step has come: what it reserved is reserved here, until ``settle``."""
        self.advances.remove(advance)
        advance.earlier = ()  # it reserves no more, and would keep all that ever were
        if advance.reserved != Cost():
            self.by["reserved"] = self.by.get("reserved", Cost()) + advance.reserved

    def settle(self, actual: Mapping[str, Cost]) -> None:
        """Book what was really spent, by purpose, in place of everything reserved."""
        reserved = self.by.pop("reserved", Cost())
        for what, cost in actual.items():
            self.by[what] = self.by.get(what, Cost()) + cost
        self.journal(self.step, "settle", "+".join(actual), sum(actual.values(), Cost()) - reserved)

    def fraction(self) -> float:
        """Share of the budget spent: the largest over its limits. Deterministic unless seconds are limited."""
        return self.share(self.spent)

    def share(self, cost: Cost) -> float:
        """A cost as a share of the budget: the largest over its limits."""
        have = amounts(cost, self.prices)
        return max((have[u] / limit for u, limit in self.budget.limits().items()), default=0.0)

    def unspent(self) -> dict[str, float]:
        """What is left of each limit."""
        have = amounts(self.spent, self.prices)
        return {u: limit - have[u] for u, limit in self.budget.limits().items()}

    def report(self) -> dict[str, Any]:
        """Spending in every unit, whole and by purpose."""
        whole = {"total": self.spent, **self.by, "lost": self.lost}
        return {what: amounts(cost, self.prices) for what, cost in whole.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "by": {w: asdict(c) for w, c in self.by.items()},
            "running": self._running(),
            "advances": [{"step": a.step, "reserved": asdict(a.reserved)} for a in self.advances],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The spending of a checkpoint; what the journal shows beyond it is lost work, booked as such."""
        self.by = {w: Cost(**c) for w, c in state["by"].items()}
        if state["running"]:
            self.by["clock"] = self.by.get("clock", Cost()) + Cost(seconds=state["running"])
        self.advances = []
        for kept in state.get("advances", ()):
            self.advance(kept["step"]).reserved = Cost(**kept["reserved"])

    def book_lost(self, journalled: Cost) -> None:
        """``journalled``: every charge less every refund in the journal, earlier losses taken off.

        Where a step that was drawn before the checkpoint was settled after it, its refund is journalled already and
        will be once more: what is held for it is charged again."""
        charged = sum((c for w, c in self.by.items() if w != "clock"), Cost())
        charged = sum((a.reserved for a in self.advances), charged)
        self.lost, again = _above(journalled, charged), _above(charged, journalled)
        if self.lost != Cost():
            self.journal(self.step, "lost", "redone after a crash", self.lost)
        if again != Cost():
            self.journal(self.step, "charge", "held again after a crash", again)

    def journal(self, step: int, event: str, what: str, cost: Cost) -> None:
        """Write a line, before what it stands for is done."""
        if self.file is not None:
            line = {"step": step, "event": event, "what": what, **asdict(cost)}
            with self._writing:  # draws for later steps may come from another thread
                self.file.write(json.dumps(line, sort_keys=True) + "\n")
                self.file.flush()


def _above(a: Cost, b: Cost) -> Cost:
    """By how much ``a`` is above ``b`` in each unit; labels that are equal are left out."""
    d = a - b
    labels = {kind: n for kind, n in d.labels.items() if n > 0}
    plain = (max(d.generated_tokens, 0), max(d.trained_tokens, 0), max(d.flops, 0.0))
    return Cost(*plain, labels, max(d.judge_calls, 0), max(d.seconds, 0.0))


@dataclass(eq=False)
class Advance:
    """A ledger for a draw made ahead of its step, while earlier steps are being learned.

    It sees what was spent when it was made and what draws before it (``earlier``) have reserved by the time that it is
    used: nothing that depends on which of two threads was faster. ``ready`` waits until the draw is done.
    """

    ledger: Ledger
    step: int
    spent: Cost
    ceiling: float
    earlier: tuple[Advance, ...]
    reserved: Cost = field(default_factory=Cost)
    ready: Callable[[], None] = lambda: None

    def charge(self, what: str, cost: Cost) -> None:
        """Book ``cost``; it stays reserved until the step is settled."""
        self.reserved = self.reserved + cost
        self.ledger.journal(self.step, "charge", what, cost)

    def reserve(self, bounds: Sequence[Cost]) -> tuple[int, Cost]:
        """As the ledger's."""
        held = sum((a.reserved for a in self.earlier), self.spent + self.reserved)
        fitting, total = self.ledger.fitting(held, self.ceiling, bounds)
        if fitting:
            self.charge("reserved", total)
        return fitting, total

    def fraction(self) -> float:
        """Share of the budget that was spent when the draw was begun."""
        return self.ledger.share(self.spent)


def journalled(path: Path) -> tuple[Cost, Cost]:
    """Read a journal: (charges less refunds less losses, losses). A torn last line is ignored."""
    held, lost = Cost(), Cost()
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # the process was killed while it wrote this line
        cost = Cost(**{k: v for k, v in line.items() if k not in ("step", "event", "what")})
        if line["event"] == "lost":
            lost, held = lost + cost, held - cost
        else:
            held = held + cost
    return held, lost
