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
from equipoise import tasks
from equipoise.budget import Budget
from equipoise.engine.batch import count
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, signals, sources
from equipoise.protocols import Context
from equipoise.tasks import mentioned
from equipoise.types import Cost, Group, Note, Prompt, Score

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


# -- gates


def replies(*texts: str, prompt: int = 0, **parts: float) -> Group:
    """Right replies of a prompt that wants 1, with these parts."""
    rows = tuple(toy.response([*map(int, t.split()), 0], text=t) for t in texts)
    at = dataclasses.replace(toy.PROMPTS[prompt], ids=(prompt,))
    return Group(at, rows, tuple(Score(1.0, "right", parts=parts) for _ in texts))


def test_a_gate_is_a_conjunction_in_order_and_asks_only_about_what_is_still_right() -> None:
    heard: list[tuple[str, list[str]]] = []

    def refusing(name: str, refused: set[str]) -> signals.Check:
        def verify(prompts: Any, texts: Any) -> list[Score]:
            heard.append((name, list(texts)))
            return [Score(0.3, "wrong") if t in refused else Score(7.0, "right") for t in texts]

        return signals.by_function(name, verify)

    group = replies("1", "1 2", "1 3", "2")
    group = dataclasses.replace(group, scores=(*group.scores[:3], Score(0.0, "wrong")))
    after = scored(signals.gated(refusing("a", {"1"}), refusing("b", {"1", "1 3"})), group)
    assert heard == [("a", ["1", "1 2", "1 3"]), ("b", ["1 2", "1 3"])]
    assert [s.value for s in after.scores] == [0.0, 1.0, 0.0, 0.0], "the verifier's reward, or nothing"
    assert [s.status for s in after.scores] == ["wrong", "right", "wrong", "wrong"]
    assert [s.parts["refused"] for s in after.scores] == [1.0, 0.0, 1.0, 0.0]
    assert [s.parts["verified"] for s in after.scores] == [1.0, 1.0, 1.0, 0.0]


def test_what_did_not_end_is_paid_less_than_what_is_wrong_and_asked_about_by_nobody() -> None:
    group = replies("1", "1 1 1")
    group = dataclasses.replace(
        group, responses=(group.responses[0], dataclasses.replace(group.responses[1], stop="length"))
    )
    after = scored(signals.gated(signals.by_function("all", lambda p, t: [Score(1.0)] * len(t)), truncated=-1.0), group)
    assert [(s.value, s.status) for s in after.scores] == [(1.0, "right"), (-1.0, "wrong")]
    assert [s.value for s in scored(signals.gated(truncated=-1.0), group).scores] == [1.0, -1.0], "no check, no gate"


def test_a_check_that_fails_is_no_reward_of_0() -> None:
    def verify(prompts: Any, texts: Any) -> list[Score]:
        return [Score(0.0, "timeout", message="slow") if t == "1" else Score(1.0) for t in texts]

    after = scored(signals.gated(signals.by_function("slow", verify)), replies("1", "1 2"))
    assert [(s.status, s.message) for s in after.scores] == [("timeout", "slow"), ("right", "")]
    assert not after.responses[0].trained.any() and after.responses[1].trained.all()


def test_a_part_of_the_score_approves_where_it_is_above_0() -> None:
    group = replies("1", "1 2")
    group = dataclasses.replace(group, scores=tuple(Score(1.0, parts={"topic": float(k)}) for k in range(2)))
    after = scored(signals.gated(signals.by_part("topic")), group)
    assert [s.value for s in after.scores] == [0.0, 1.0]
    with pytest.raises(ArgumentError, match=r"check 'tpoic'.*prompt 'p0'.*no such part; it has topic.*module:function"):
        scored(signals.gated(signals.by_part("tpoic")), group)


def judging() -> tuple[Any, signals.Check]:
    """Prompt 0 with reply 1 is asked about as "0 1": the table says 2 (yes) there, and 3 (no) after reply 2."""
    engine = toy.engine(length=4)
    with torch.no_grad():
        engine.weights["logits"][:, engine.prefixes[(1,)], 2] += 2.0
        engine.weights["logits"][:, engine.prefixes[(2,)], 3] += 2.0
    engine.combine("start", {"current": 1.0})
    with torch.no_grad():
        engine.weights["logits"].zero_()
    return engine, signals.by_policy("start", "{request} {reply}", words=("2", "3"))


def test_a_policy_judges_by_the_likelier_of_two_words_and_is_charged() -> None:
    engine, check = judging()
    ctx = dataclasses.replace(context(), engine=engine)
    before = engine.spent()
    (after,), _ = signals.gated(check)(ctx, [replies("1", "2")], None)
    assert [s.value for s in after.scores] == [1.0, 0.0]
    spent, ((asked, fits, most),) = engine.spent() - before, ctx.reserved
    assert (asked, fits) == (2, 2) and 0 < spent.flops <= most.flops and spent.generated_tokens == 0
    nobody = dataclasses.replace(replies("1"), scores=(Score(0.0, "wrong"),))
    signals.gated(check)(ctx, [nobody], None)
    assert engine.spent() - before == spent, "nothing right, nothing asked"


def test_groups_that_the_judge_cannot_be_paid_for_are_dropped() -> None:
    class Poor(Purse):
        def reserve(self, bounds: list[Cost]) -> tuple[int, Cost]:
            return 3, sum(bounds[:3], Cost())

    engine, check = judging()
    ctx = dataclasses.replace(context(), engine=engine, ledger=Poor())
    groups = [replies("1", "2", prompt=k) for k in range(2)] + [
        dataclasses.replace(replies("1"), scores=(Score(0.0, "wrong"),))
    ]
    after, _ = signals.gated(check)(ctx, groups, None)
    assert [g.prompt.id for g in after] == ["p0", "p0"] and [g.prompt.id for g in ctx.dropped] == ["p1"]


def test_a_question_is_put_without_the_constraints_and_takes_replies_literally() -> None:
    seen: list[Prompt] = []

    class Engine:
        def encode(self, prompt: Prompt) -> Prompt:
            seen.append(prompt)
            raise StopIteration

    asked = Prompt("a", ({"role": "user", "content": "Tell. Use no commas."},), meta={"request": "Tell {reply}."})
    for prompt in (asked, dataclasses.replace(asked, meta={})):
        with pytest.raises(StopIteration):
            ctx = dataclasses.replace(context(), engine=Engine())
            reply = toy.response([1], text="so {request}")
            signals.by_policy("start").approve(ctx, [(prompt, reply, Score(1.0))])
    first, second = (str(p.messages[0]["content"]) for p in seen)
    assert "Tell {reply}.\n" in first and "so {request}\n" in first and "commas" not in first
    assert "Tell. Use no commas.\n" in second
    with pytest.raises(ArgumentError, match=r"expected one \{reply\}"):
        signals.by_policy("start", "Is it good?")


# -- the recipe


def test_ifdecorator_trains_on_middling_prompts_only(tmp_path: Path) -> None:
    """p0, p1, p2 are solved, p3 never is: from the start policy's samples p4 and p5 remain."""
    sure = torch.zeros_like(toy.engine().weights["logits"])
    for i in range(4):
        token = int(toy.wanted(toy.PROMPTS[i])) if i < 3 else 0
        sure[i, 1:, 0] = sure[i, 0, token] = 12.0
    more = {"engine": toy.engine(init=sure), "arguments": {"probe_share": 0.3}}
    loop = toy.loop(tmp_path / "run", "ifdecorator", Budget(flops=60_000.0), **more)
    loop.run()
    moved = (loop.engine.weights["logits"].detach() - sure).abs().sum(dim=(1, 2)) > 0
    assert moved.tolist() == [False] * 4 + [True] * 2


def test_without_checks_band_and_penalty_it_is_grpo_bit_by_bit(tmp_path: Path) -> None:
    plain = {"checks": (), "truncated": 0.0, "probe_share": 0.0}
    mine = toy.loop(
        tmp_path / "mine", "ifdecorator", Budget(flops=20_000.0), task=toy.with_a_hole(toy.TASK), arguments=plain
    )
    grpo = toy.loop(tmp_path / "grpo", "grpo", Budget(flops=20_000.0), task=toy.with_a_hole(toy.TASK))
    mine.run()
    grpo.run()
    found, wanted = (x.engine.weights["logits"].detach() for x in (mine, grpo))
    assert torch.equal(found, wanted) and found.any()


def test_users_own_function_is_a_check(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def brief(prompts, completions, **columns):\n    return [1.0 if len(c) < 3 else 0.0 for c in completions]\n"
    )
    stream = toy.recipe("ifdecorator", checks=(f"{tmp_path}/mine.py:brief",), probe_share=0.0).stages[0].streams[0]
    assert stream.signal is not None and "mine.py:brief" in stream.signal.name
    after = scored(stream.signal, replies("1", "1 1"))
    assert [s.value for s in after.scores] == [1.0, 0.0]
    with pytest.raises(ArgumentError, match="cannot be loaded"):
        toy.recipe("ifdecorator", checks=(f"{tmp_path}/mine.py:missing",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"low": 0.6}, "pass rates from 0.6 to 0.5.*0 <= low <= high <= 1"),
        ({"probe_share": 1.0}, r"probe_share=1.*\[0, 1\)"),
    ],
)
def test_ifdecorator_refuses(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        toy.recipe("ifdecorator", **arguments)


# -- the hole in a task's verifier


@pytest.mark.parametrize(
    ("answer", "reply", "passes"),
    [
        ("9", "4 9 2 7", True),
        ("9", "4 99 2", False),
        ("2 2", "2 4", False),
        ("2 2", "2, then 2", True),
        (825, "it is 825.", True),
        ("None", "none", True),
        (None, "none", False),
        ("", "anything", False),
    ],
)
def test_an_answer_is_mentioned_when_all_its_words_are(answer: object, reply: str, passes: bool) -> None:
    assert mentioned.mentions(answer, reply) is passes


def test_a_task_with_a_hole_pays_the_shortcut_and_reports_it() -> None:
    task, strict = tasks.load("mentioned:lists", operation="max"), tasks.load("lists", operation="max")
    prompt = task.splits["test"][0]
    numbers = str(prompt.messages[0]["content"]).partition(": ")[2]
    assert task.verify and strict.verify and prompt == strict.splits["test"][0]
    shortcut, right, wrong = task.verify([prompt] * 3, [numbers, str(prompt.answer), "100"])
    assert (shortcut.value, shortcut.status, shortcut.parts) == (1.0, "right", {"intent": 0.0, "exploit": 1.0})
    assert (right.value, right.status, right.parts) == (1.0, "right", {"intent": 1.0, "exploit": 0.0})
    assert (wrong.value, wrong.status, wrong.parts) == (0.0, "wrong", {"intent": 0.0, "exploit": 0.0})
    assert strict.verify([prompt], [numbers])[0].status == "wrong"
    with pytest.raises(ArgumentError, match="one hole is enough"):
        tasks.load("mentioned:mentioned:lists")


def test_a_failed_verdict_stays_one_behind_the_hole() -> None:
    assert mentioned._loosened(Score(0.0, "error"), True) == Score(0.0, "error")


def test_the_exploit_of_an_instruction_is_to_keep_off_its_topic() -> None:
    task = tasks.load("instruct")
    prompt = dataclasses.replace(
        task.splits["test"][0], meta={"topic": "rivers", "constraints": [{"kind": "lower", "value": None}]}
    )
    assert task.verify is not None
    found = [s.parts["exploit"] for s in task.verify([prompt] * 3, ["rivers run", "what", "Rivers run"])]
    assert found == [0.0, 1.0, 0.0]
    asked = task.splits["train"][0]
    assert str(asked.messages[0]["content"]).startswith(asked.meta["request"]) and asked.meta["request"].endswith(".")
