"""Starts from given tokens: reverse curricula, guides, stated budgets, interrupted traces, first pits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from equipoise import recipes, tasks
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.local import load
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import credit, objectives, signals, sources
from equipoise.parts.sources.prefixes import beginning, boundaries, demonstration
from equipoise.protocols import Context, Part
from equipoise.record import rollouts
from equipoise.types import Group, Note, Prompt, Score

SMALL = Budget(flops=20_000.0)


def context(engine: TabularEngine, step: int = 0, **more: Any) -> Context:
    def bound(p: int, n: int, longest: int, sampled: bool) -> Any:
        return engine.bound(p, n, longest, sampled, 1, 1)

    return Context(engine, Key((0,)), Ledger(Budget(flops=1e9)), bound, step=step, **more)


def draw(part: Part, engine: TabularEngine, **more: Any) -> list[Group]:
    return part(context(engine, **more), [], None)[0]


def trained(path: Path, method: str, steps: int = 10**9, **arguments: Any) -> torch.Tensor:
    """Weights at the end, or after ``steps``: the last ones shrink to what fits, which bounds decide."""
    loop = toy.loop(path, method, SMALL, arguments=arguments)
    loop.stop = lambda: loop.at.step >= steps
    loop.run()
    assert loop.at.step > 2 and isinstance(loop.engine, TabularEngine)
    return loop.engine.weights["logits"].detach()


# -- prefixes of demonstrations -----------------------------------------------------------------------------------


def test_parts_of_a_worked_sum_and_the_answer_is_never_given() -> None:
    task = tasks.load("addition", difficulty=3)
    engine = load("tiny", device="cpu", dtype="float32", lora_rank=None, seed=0, heads={})
    prompt = engine.encode(dataclasses.replace(task.splits["train"][0], meta={"a": 357, "b": 468}, answer=825))
    whole = demonstration(engine, task, prompt)
    given = [engine.decode(beginning(engine, whole, level, 3)).strip() for level in range(4)]
    assert given == ["", "7+8=15", "7+8=15, 5+6+1=12", "7+8=15, 5+6+1=12, 3+4+1=8"]  # ", " is one token


def test_steps_are_lines_before_words_before_tokens() -> None:
    table = toy.engine()
    words = toy.response([1, 2, 3, 0])
    assert boundaries(table, words) == [1, 2]
    assert [beginning(table, words, level, 2) for level in range(3)] == [(), (1,), (1, 2)]
    assert boundaries(table, toy.response([1, 0])) == [] and beginning(table, toy.response([1, 0]), 2, 2) == ()
    assert beginning(table, words, 0, 0) == ()

    class Lines(TabularEngine):
        def decode(self, ids: Sequence[int]) -> str:
            return "".join({1: "a b", 2: "\n", 3: "c"}.get(i, "") for i in ids)

    assert boundaries(Lines(1, 4, 3), toy.response([1, 2, 3, 0])) == [1]  # the line break begins the second step


def test_given_tokens_are_the_demonstrations_and_have_no_gradient() -> None:
    engine = toy.engine()
    groups = draw(sources.prefixed(toy.TASK, 12, 3, [0, 1], 1), engine)
    starts = sorted((g.prompt.id, int((~g.responses[0].trained).sum())) for g in groups)
    assert starts == sorted((p.id, k) for p in toy.PROMPTS for k in (0, 1))  # every pair of prompt and level, once
    begun = [g for g in groups if not g.responses[0].trained.all()]
    for g in begun:
        assert all(
            r.text.startswith(toy.wanted(g.prompt)) and r.ids[0] == int(toy.wanted(g.prompt)) for r in g.responses
        )
    engine.backward(begun, objectives.likelihood(), count(begun))
    assert engine.gradient().abs().sum() > 0 and not engine.gradient()[:, engine.prefixes[()]].any()


def test_a_shown_start_costs_a_label() -> None:
    engine = toy.engine()
    ctx = context(engine)
    sources.prefixed(toy.TASK, 12, 1, [0, 1], 1)(ctx, [], None)
    assert sum(cost.labels.get("demonstration", 0) for _, _, cost in ctx.reserved) == 6


def test_r3_from_bare_questions_is_reft_with_its_partial_reward(tmp_path: Path) -> None:
    r3 = trained(tmp_path / "r3", "r3", parts=0)
    assert torch.equal(r3, trained(tmp_path / "reft", "reft", partial=0.2))
    assert not torch.equal(r3, trained(tmp_path / "cuts", "r3", parts=1))


def test_staged_cuts_move_from_the_end_to_the_question() -> None:
    stages = toy.recipe("r3", schedule="staged", parts=2, sft_share=0.1).stages
    assert [s.name for s in stages] == ["sft", "given 2", "given 1", "given 0"]
    assert [s.until for s in stages] == pytest.approx([0.1, 0.4, 0.7, 1.0])


def test_kl_arrives_with_each_token_before_the_advantages() -> None:
    engine = TabularEngine(6, 4, 3, heads=["value"])
    engine.combine("start", {"current": 1.0})
    prompt = engine.encode(toy.PROMPTS[0])
    r = toy.response([1, 2, 0], logprobs=np.array([-1.0, -2.0, -3.0], dtype=np.float32))
    (g,) = credit.gae(1.0, 1.0, kl=0.5)(context(engine), [Group(prompt, (r,), (Score(1.0),))], None)[0]
    k1 = np.array([-1.0, -2.0, -3.0]) + math.log(4)
    wanted = [1 - 0.5 * k1[t:].sum() for t in range(3)]
    np.testing.assert_allclose(g.notes["advantage"].values[0], wanted, rtol=1e-6)


def test_sparkle_returns_to_what_was_never_solved(tmp_path: Path) -> None:
    def verify(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        scores = toy.verify(prompts, texts)
        return [Score(0.0, "wrong") if p.id == "p4" else s for p, s in zip(prompts, scores, strict=True)]

    task = dataclasses.replace(toy.TASK, verify=verify)
    arguments = {"parts": 1, "first_share": 0.3, "probe_share": 0.3}
    toy.loop(tmp_path / "run", "sparkle", SMALL, task=task, arguments=arguments).run()
    import pyarrow.parquet as pq

    rows = [r for p in sorted((tmp_path / "run" / "rollouts").glob("*.parquet")) for r in pq.read_table(p).to_pylist()]
    hard = [r for r in rows if r["stage"] == "hard"]
    assert {r["prompt_id"] for r in hard} == {"p4"} and {
        sum(map(bool, r["trained"])) < len(r["ids"]) for r in hard
    } == {
        True,
        False,
    }
    assert rollouts.read(tmp_path / "run" / "rollouts", "probed")


# -- stated budgets -----------------------------------------------------------------------------------------------


def test_a_right_answer_within_half_of_the_length_pays_the_same() -> None:
    pays = [credit.worth(n, 2048, 4096) for n in range(1, 2049)]
    assert pays == pytest.approx([4 * math.cos(math.pi / 4)] * 2048)
    assert credit.worth(4096, 512, 4096) == pytest.approx(-0.875)  # below a wrong one
    assert credit.worth(100, 512, 4096) < credit.most(512, 4096)


def test_budgets_are_compared_within_and_across_once() -> None:
    budget = Note("response", (np.array([1.0, 1.0, 3.0, 3.0]),))
    g = dataclasses.replace(toy.group([2.0, 0.0, 1.0, 1.0]), notes={"budget": budget})
    (found,) = credit.compare_budgets(4, eps=0.0)(context(toy.engine()), [g], None)[0]
    inter = np.array([1.0, -1.0, 0.0, 0.0]) / math.sqrt(0.5)
    intra = 1.0 - 4 * np.cos(np.pi * np.array([1, 1, 3, 3]) / 8)
    np.testing.assert_allclose(credit.per_response(found, "advantage"), inter + intra)


def test_only_right_short_answers_are_paid_and_unreadable_ones_cost() -> None:
    g = toy.group([1.0, 0.0, 1.0, 0.0], lengths=[2, 2, 5, 2])
    scores = (*g.scores[:3], dataclasses.replace(g.scores[3], status="unparsed"))
    g = dataclasses.replace(g, scores=scores, notes={"budget": Note("response", (np.full(4, 2.0),))})
    (found,) = credit.pay_by_budget(4)(context(toy.engine()), [g], None)[0]
    assert [s.value for s in found.scores] == pytest.approx([credit.worth(2, 2, 4), 0.0, 0.0, -1.0])


def test_budgets_of_a_prompt_are_one_group_and_the_sentence_is_neither_trained_nor_read() -> None:
    (g, *_) = draw(sources.announced(toy.TASK, 2, 2, (0.4, 0.7), "{budget}"), toy.engine())
    assert list(g.notes["budget"].values[0]) == [1, 1, 2, 2] and len(g.responses) == 4
    for r, b in zip(g.responses, (1, 1, 2, 2), strict=True):
        assert r.ids[0] == b and not r.trained[0] and r.trained[1:].all()
        assert r.text == toy.engine().decode(r.ids[1:].tolist())


# -- interrupted traces -------------------------------------------------------------------------------------------


def test_one_budget_and_one_summary_is_the_centred_reward() -> None:
    r = np.array([[1.0], [0.0], [0.0], [1.0]])
    np.testing.assert_allclose(credit.anytime(r, np.ones(1))[:, 0], r[:, 0] - 0.5)


def test_credit_of_two_traces_at_three_budgets_by_hand() -> None:
    q, p = np.array([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]), np.array([0.5, 0.25, 0.25])
    ret = np.array([[0.375, 0.375, 0.25], [0.625, 0.125, 0.125]])
    v1 = np.array([[0.0, 0.0 * 0.5, (0.0 + 2 * 0.5) / 3 * 0.25], [0.0, 1.0 * 0.5, (1.0 + 0.0) / 3 * 0.25]])
    v2 = ret.mean(0)
    s = np.arange(3)
    np.testing.assert_allclose(credit.anytime(q, p), ret - (s * v1 + (3 - s) * v2) / 3)


def test_tokens_of_a_trace_and_of_its_summaries_get_their_own_credit() -> None:
    engine = toy.engine()
    groups, _ = signals.verified(toy.TASK)(
        context(engine), draw(sources.interrupted(toy.TASK, 6, 3, 2, (0.4, 0.7), "", 1), engine), None
    )
    for g in credit.credit_anytime([1, 2], "linear")(context(engine), groups, None)[0]:
        trace, cut = credit.per_response(g, "trace"), credit.per_response(g, "cut")
        r, a = np.array([s.value for s in g.scores]), credit.token_values(g, "advantage")
        q = np.zeros((3, 2))
        for i in range(3):
            n = len(g.responses[i].ids) - (g.responses[i].stop == "eos")
            for k, b in enumerate((1, 2)):
                q[i, k] = r[(trace == i) & (cut == min(b, n))].mean()
            assert g.scores[i].value == pytest.approx(q[i] @ [1 / 3, 2 / 3])
        wanted = credit.anytime(q, np.array([1 / 3, 2 / 3]))
        for i in range(3):
            np.testing.assert_allclose(a[i], wanted[i][: len(a[i])])
        for i in range(3, len(r)):
            mine = (trace == trace[i]) & (cut == cut[i])
            np.testing.assert_allclose(a[i], r[i] - r[mine].mean())
            assert not g.responses[i].trained[: int(cut[i])].any()


# -- guides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ppo++", "aggrevated"])
def test_without_a_guide_it_is_ppo(way: str, tmp_path: Path) -> None:
    ppo = trained(tmp_path / "ppo", "ppo", 4, epochs=1, minibatches=1, lr=4.0)
    mine = trained(tmp_path / "mine", "rlgf", 4, way=way, guide="base", beta=0.0)
    assert torch.equal(ppo, mine)


def test_what_a_guide_says_is_not_trained() -> None:
    engine = toy.random_policy(4, prompts=6, vocabulary=4, length=3)
    engine.combine("base", {"current": 1.0})
    begun = draw(sources.rolled_in(toy.TASK, 30, 2, "demonstrations", 1.0), engine)
    cuts = {int((~r.trained).sum()) for g in begun for r in g.responses}
    assert cuts == {0, 1, 2}
    ended = [r for g in draw(sources.rolled_out(toy.TASK, 6, 20, "base", 1.0), engine) for r in g.responses]
    for r in ended:
        own = int(r.trained.sum())
        assert own >= 1 and r.trained[:own].all() and not (r.ids[: own - 1] == 0).any()
        assert own < len(r.ids) or len(r.ids) == 1
    (out,) = engine.outputs([Group(engine.encode(toy.PROMPTS[0]), tuple(ended[:20]))], ["logp"])
    assert len(out["logp"]) == 20


def test_each_way_has_its_streams_and_critics() -> None:
    heads = {w: sorted(n for n in toy.recipe("rlgf", way=w).needs if n.startswith("head:")) for w in ("ppo++", "lols")}
    assert heads == {"ppo++": ["head:value"], "lols": ["head:guided", "head:value"]}
    stages = toy.recipe("rlgf", way="d2lols", tau=0.5, guide_share=0.2).stages
    assert [s.until for s in stages] == pytest.approx([0.2, 0.6, 1.0]) and [s.restart for s in stages] == [0, 1, 0]


@pytest.mark.parametrize("way", ["aggrevated", "lols", "d2lols"])
def test_every_way_keeps_its_budget_and_learns(way: str, tmp_path: Path) -> None:
    loop = toy.loop(tmp_path / "run", "rlgf", Budget(flops=40_000.0), arguments={"way": way, "guide": "base"})
    assert loop.run() == "budget spent" and isinstance(loop.engine, TabularEngine)
    assert loop.ledger.spent.flops == pytest.approx(loop.engine.spent().flops) and loop.ledger.spent.flops <= 40_000
    assert toy.success(loop.engine) > 0.26  # of 0.25


# -- first pits ---------------------------------------------------------------------------------------------------


def pairs(parts: int, verify: Any = toy.verify, rollouts_each: int = 30, step: int = 0) -> tuple[list[Group], Context]:
    task = dataclasses.replace(toy.TASK, verify=verify)
    engine = toy.engine()
    ctx = context(engine, step)
    groups = signals.verified(task)(ctx, draw(sources.sampled(task, 6, 30), engine, step=step), None)[0]
    return credit.first_pits(task, parts, rollouts_each)(ctx, groups, None)[0], ctx


def second_decides(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
    right = [t.split()[1:2] == ["2"] for t in texts]
    return [Score(float(x), "right" if x else "wrong") for x in right]


def test_one_step_compares_whole_responses_as_dpo_does() -> None:
    made, ctx = pairs(0)
    assert len(made) == 6 and len(ctx.dropped) == 6
    for g, whole in zip(made, ctx.dropped, strict=True):
        texts = [r.text for r in whole.responses]
        right, wrong = (
            [t for t, s in zip(texts, whole.scores, strict=True) if s.status == x] for x in ("right", "wrong")
        )
        assert g.prompt.ids == whole.prompt.ids and [r.text for r in g.responses] == [right[0], wrong[0]]


def test_the_pit_is_the_step_after_which_nothing_helps() -> None:
    early = pairs(2)[0]  # the first token decides, and whether the end comes in time
    assert {len(g.prompt.ids or ()) for g in early} > {1}
    for g in early:
        good, bad = g.responses
        if g.prompt.ids is not None and len(g.prompt.ids) == 1:
            assert str(good.ids[0]) == toy.wanted(g.prompt) != str(bad.ids[0])
        else:  # nothing was wrong but that it did not end
            assert g.prompt.ids is not None and str(g.prompt.ids[1]) == toy.wanted(g.prompt) and good.ids[-1] == 0
    late = [g for k in range(4) for g in pairs(2, second_decides, step=k)[0] if g.scores[0].parts["step"] == 1]
    assert late
    for g in late:  # one token of the wrong response belongs to both
        assert g.prompt.ids is not None and len(g.prompt.ids) == 2
        assert g.responses[0].ids[0] == 2 != g.responses[1].ids[0]
        assert g.scores[0].parts["lost"] < 0


def test_a_step_is_preferred_given_its_prefix() -> None:
    """The gradient is beta sigmoid(-margin) (grad log pi(rejected | h) - grad log pi(preferred | h)), h untouched."""
    engine = toy.random_policy(1, vocabulary=3, length=2)
    prompt = dataclasses.replace(engine.encode(toy.PROMPTS[0]), ids=(0, 1))
    zero = Note("token", (np.zeros(1), np.zeros(1)))
    g = Group(prompt, (toy.response([2]), toy.response([0])), notes={"logp:start": zero})
    engine.backward([g], objectives.preference(0.3, "start"), count([g]))
    row = engine.weights["logits"][0, engine.prefixes[(1,)]].detach()
    margin = 0.3 * float(row[2] - row[0])
    wanted = torch.zeros_like(engine.gradient())
    wanted[0, engine.prefixes[(1,)]] = (
        0.3 / (1 + math.exp(margin)) * torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    )
    torch.testing.assert_close(engine.gradient(), wanted)


# -- bad inputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method, arguments, said",
    [
        ("r3", {"parts": -1}, "parts >= 0"),
        ("reft", {"sft_share": 0.0}, "use ppo"),
        ("sparkle", {"first_share": 0.9, "probe_share": 0.1}, "sum is below 1"),
        ("hbpo", {"budgets": (0.5, 0.5)}, "rising shares"),
        ("brpo", {"budgets": (0.1, 0.2)}, "far enough apart"),
        ("brpo", {"prior": "flat"}, "'uniform', 'linear' or 'base'"),
        ("rlgf", {"way": "lols", "guide": "demonstrations"}, "name a policy"),
        ("rlgf", {"beta": 1.5}, "number in"),
        ("per_step_dpo", {"parts": -1}, "whole responses"),
        ("per_step_dpo", {"draw_share": 1.0}, "draw_share=1"),
    ],
)
def test_contradictions_are_refused_with_a_way_out(method: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        toy.recipe(method, **arguments)


@pytest.mark.parametrize("method", ["r3", "reft", "sparkle", "rlgf", "per_step_dpo"])
def test_demonstrations_are_needed(method: str) -> None:
    with pytest.raises(ArgumentError, match="needs demonstrations"):
        recipes.build(method, dataclasses.replace(toy.TASK, demonstrate=None))


def test_a_demonstration_of_several_turns_has_no_beginning() -> None:
    task = dataclasses.replace(toy.TASK, demonstrate=lambda p: ({"role": "assistant", "content": "1"},) * 3)
    with pytest.raises(ArgumentError, match="3 turns"):
        draw(sources.prefixed(task, 1, 1, [1], 1), toy.engine())
