"""Rewards for length on a cosine, pools by pass rate, and gates that ask whether a right reply does what was meant."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise.budget import Budget
from equipoise.engine.batch import count
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, signals, sources
from equipoise.protocols import Context
from equipoise.types import Cost, Group, Note, Score

LONG = 8


class Purse:
    """A ledger on which everything fits."""

    def reserve(self, bounds: list[Cost]) -> tuple[int, Cost]:
        return len(bounds), sum(bounds, Cost())

    def fraction(self) -> float:
        return 0.0


def context(**fields: Any) -> Context:
    return Context(toy.engine(), Key((0,)), Purse(), lambda *_: Cost(), **fields)  # type: ignore[arg-type]


def scored(part: Any, group: Group) -> Group:
    (after,), _ = part(context(), [group], None)
    assert isinstance(after, Group)
    return after


# -- a cosine of the length


def test_the_cosine_runs_from_one_value_to_the_other_and_stops_there() -> None:
    lengths = [1, 2, 4, LONG, LONG + 4]
    right = scored(signals.cosine(LONG), toy.group([1.0] * 5, lengths))
    wrong = scored(signals.cosine(LONG), toy.group([0.0] * 5, lengths))
    for k, n in enumerate(lengths):
        near = (1 + math.cos(math.pi * min(n / LONG, 1.0))) / 2
        assert right.scores[k].value == pytest.approx(0.5 + 0.5 * near)
        assert wrong.scores[k].value == pytest.approx(-0.5 + 0.5 * near)
    assert right.scores[2].value == pytest.approx(0.75) and wrong.scores[2].value == pytest.approx(-0.25)
    assert right.scores[3].value == right.scores[4].value == 0.5, "longer than L gains nothing back"
    assert [s.status for s in right.scores] == ["right"] * 5 and right.scores[0].parts["verified"] == 1.0


def test_no_right_response_is_paid_less_than_a_wrong_one_and_constants_leave_the_verdict() -> None:
    lengths = list(range(1, LONG + 1)) * 2
    group = toy.group([1.0] * LONG + [0.0] * LONG, lengths)
    r = [s.value for s in scored(signals.cosine(LONG), group).scores]
    assert min(r[:LONG]) > max(r[LONG:]) and r[:LONG] == sorted(r[:LONG], reverse=True)
    flat = scored(signals.cosine(LONG, (1.0, 1.0), (0.0, 0.0), weight=2.0), group)
    assert [s.value for s in flat.scores] == [2.0] * LONG + [0.0] * LONG


def test_a_failed_verdict_is_paid_nothing_and_truncated_has_no_form() -> None:
    group = toy.group([1.0, 0.0, 0.0, 1.0])
    scores = (group.scores[0], Score(0.0, "timeout"), Score(0.0, "unparsed"), group.scores[3])
    cut = dataclasses.replace(group.responses[3], stop="length")
    group = dataclasses.replace(group, scores=scores, responses=(*group.responses[:3], cut))
    assert scored(signals.cosine(LONG), group).scores[1] == Score(0.0, "timeout")
    formed = scored(signals.add_form(0.5), group)
    assert [s.value for s in formed.scores] == [1.5, 0.0, 0.0, 1.0]
    assert [s.parts.get("format") for s in formed.scores] == [1.0, None, 0.0, 0.0]
    assert [s.value for s in scored(signals.add_form(0.5, "1.*"), group).scores] == [1.5, 0.0, 0.5, 1.0]


def test_open_rs_advantages_are_those_of_the_three_runs() -> None:
    """Right and wrong of 2 and 6 tokens among at most 8: 2 v + 1, centred, over the deviation + 1e-4."""
    task = dataclasses.replace(toy.TASK, max_new_tokens=LONG)
    group = toy.group([1.0, 1.0, 0.0, 0.0], [2, 6, 2, 6])
    near = np.array([(1 + math.cos(math.pi * n / LONG)) / 2 for n in (2, 6, 2, 6)])
    for cosine, v in ((True, np.array([0.5, 0.5, -0.5, -0.5]) + 0.5 * near), (False, np.array([1.0, 1.0, 0.0, 0.0]))):
        stream = (
            toy.recipe("open_rs", dataclasses.replace(task, verify=judged(group)), cosine=cosine).stages[0].streams[0]
        )
        (after,), _ = stream.credit(context(), [scored(stream.signal, group)], None)
        r = 2 * v + 1
        assert credit.per_response(after, "advantage") == pytest.approx((r - r.mean()) / (r.std() + 1e-4))


def judged(group: Group) -> Any:
    return lambda prompts, texts: list(group.scores)


def test_the_gradient_of_open_rs_is_the_advantages_and_the_kls_by_hand() -> None:
    """One response of one token: d/dz of -A rho + kl k3 is (-A + kl (1 - exp(-x))) (onehot - pi), x = log pi/start."""
    engine, a, kl = toy.random_policy(1), 0.7, 0.5
    start = torch.log_softmax(torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64), 0)
    group = Group(dataclasses.replace(toy.PROMPTS[0], ids=(0,)), (toy.response([2]),), (Score(1.0),))
    notes = {"advantage": Note("response", (np.array([a]),)), "logp:start": Note("token", (start[2:].numpy(),))}
    stream = toy.recipe("open_rs", kl=kl).stages[0].streams[0]
    engine.backward([credit.noted(group, **notes)], stream.objective, count([group]))
    logp = torch.log_softmax(engine.weights["logits"][0, 0].detach(), 0)
    factor = -a + kl * (1 - math.exp(-float(logp[2] - start[2])))
    wanted = factor * (torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) - logp.exp())
    torch.testing.assert_close(engine.gradient()[0, 0], wanted, rtol=1e-10, atol=1e-12)


# -- prompts by pass rate


def stored(*rates: tuple[int, float]) -> dict[str, list[Group]]:
    """A store of groups of four: (prompt, pass rate)."""
    made = [(i, toy.group([1.0] * round(4 * p) + [0.0] * (4 - round(4 * p)))) for i, p in rates]
    return {"probed": [dataclasses.replace(g, prompt=toy.PROMPTS[i]) for i, g in made]}


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.0, 1.0, "p3 p0 p1 p2"), (0.03, 0.5, "p0 p2"), (0.0, 0.25, "p3 p2"), (0.25, 0.25, "p2"), (0.9, 1.0, "p1")],
)
def test_a_pool_by_pass_rate_counts_all_appearances(low: float, high: float, wanted: str) -> None:
    ctx = context(stores=stored((3, 0.0), (0, 0.25), (1, 1.0), (2, 0.25), (0, 0.75)))
    assert " ".join(p.id for p in sources.rated("probed", low, high)(ctx)) == wanted


def test_a_failed_verdict_is_in_no_pass_rate() -> None:
    store = stored((0, 0.5))
    (group,) = store["probed"]
    failed = dataclasses.replace(group, scores=(*group.scores[:2], Score(0.0, "error"), Score(0.0, "timeout")))
    ctx = context(stores={"probed": [failed]})
    assert [p.id for p in sources.rated("probed", 1.0, 1.0)(ctx)] == ["p0"]
    nothing = dataclasses.replace(group, scores=(Score(0.0, "error"),) * 4)
    assert not sources.rated("probed", 0.0, 1.0)(context(stores={"probed": [nothing]}))


def test_hard_sets_hold_only_what_the_start_policy_seldom_gets_right(tmp_path: Path) -> None:
    sure = torch.zeros_like(toy.engine().weights["logits"])
    for i in range(3):
        sure[i, 1:, 0] = sure[i, 0, int(toy.wanted(toy.PROMPTS[i]))] = 9.0  # p0, p1, p2: the right token, then the end
    loop = toy.loop(
        tmp_path / "run",
        "open_rs",
        Budget(flops=60_000.0),
        engine=toy.engine(init=sure),
        arguments={"hardest": 0.5, "probe_share": 0.3},
    )
    loop.run()
    moved = (loop.engine.weights["logits"].detach() - sure).abs().sum(dim=(1, 2)) > 0
    assert moved.tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"hardest": -0.1}, "pass rates from 0 to -0.1.*0 <= low"),
        ({"pattern": "("}, r"pattern '\('.*regular expression"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_open_rs_refuses(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        toy.recipe("open_rs", **arguments)


def test_cosines_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ArgumentError, match="longest=0"):
        signals.cosine(0)
    with pytest.raises(ArgumentError, match="no right response below a wrong one"):
        signals.cosine(4, right=(0.0, 1.0), wrong=(0.0, 0.5))
