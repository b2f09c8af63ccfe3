"""Several turns and second passes: exact identities on the enumerable engine, and their bad inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from equipoise import recipes, tasks
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError, DataError
from equipoise.keys import Key
from equipoise.parts import credit, objectives, signals, sources
from equipoise.parts.sources.spans import spans
from equipoise.protocols import Context, Part
from equipoise.types import Group, Note, Objective, Response, Score, Stop, Task


def table(seed: int = 0) -> TabularEngine:
    init = torch.randn(6, 40, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TabularEngine(6, 4, 4, init=init)


def context(engine: TabularEngine, budget: int = 100_000) -> Context:
    ledger = Ledger(Budget(generated_tokens=budget))
    return Context(engine, Key((0,)), ledger, lambda p, n, longest, on: engine.bound(p, n, longest, on, 0, 1))


def run(ctx: Context, *parts: Part) -> list[Group]:
    groups: list[Group] = []
    for part in parts:
        groups, _ = part(ctx, groups, None)
    return groups


def talks(engine: TabularEngine, samples: int = 40, turns: int = 2) -> list[Group]:
    return run(context(engine), sources.conversed(toy.TASK, 6, samples, "3", turns), signals.turns(toy.TASK))


def gradient(engine: TabularEngine, groups: list[Group], objective: Objective) -> torch.Tensor:
    engine.discard()
    engine.backward(groups, objective, count(groups))
    return engine.gradient()


def by_hand(
    engine: TabularEngine, groups: list[Group], weight: Callable[[Response, Score, int], float]
) -> torch.Tensor:
    """Gradient of - sum over turns of weight x sum_t log pi_t of that turn."""
    engine.discard()
    total = torch.zeros(())
    for g in groups:
        for r, s in zip(g.responses, g.scores, strict=True):
            for k, span in enumerate(spans(r)):
                on = np.zeros(len(r.ids), dtype=bool)
                on[span] = True
                total = total - weight(r, s, k) * engine.logp(g.prompt, replace(r, trained=on))
    total.backward()  # type: ignore[no-untyped-call]
    return engine.gradient()


def two() -> Response:
    """Two attempts of two tokens with one word between."""
    said = [True, True, False, True, True]
    return toy.response([1, 0, 3, 2, 0], trained=np.array(said), segment=np.array([0, 0, 1, 2, 2], dtype=np.int32))


def talk(first: float, second: float) -> Group:
    s = Score(second, "right" if second else "wrong", parts={"turn 1": first, "turn 2": second})
    return Group(replace(toy.PROMPTS[0], ids=(0,)), (two(),), (s,))


def test_each_turn_has_the_verdict_on_its_own_words() -> None:
    found = [(g.prompt, r, s) for g in talks(table()) for r, s in zip(g.responses, g.scores, strict=True)]
    assert any(len(spans(r)) == 2 for _, r, _ in found)
    for prompt, r, s in found:
        for k, span in enumerate(spans(r)):
            ended = r.ids[span[-1]] == 0
            begins = str(r.ids[span[0]]) == toy.wanted(prompt)
            assert s.parts[f"turn {k + 1}"] == float(begins and ended and len(span) <= 3)
        assert s.value == s.parts[f"turn {len(spans(r))}"]


def test_score_without_progress_and_kl_is_reinforce_on_each_turn() -> None:
    engine = table()
    groups = talks(engine)
    made = run(context(engine), sources.conversed(toy.TASK, 6, 40, "3"), signals.turns(toy.TASK), credit.by_turn())
    stage = toy.recipe("score", progress=0.0, kl=0.0, baseline=False).stages[1].streams[0]
    n = count(groups).responses
    hand = by_hand(engine, groups, lambda r, s, k: s.parts[f"turn {k + 1}"] / n)
    torch.testing.assert_close(gradient(engine, made, stage.objective), hand)
    assert hand.abs().sum() > 0


@pytest.mark.parametrize("first, second", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_no_reward_leaks_into_another_turn(first: float, second: float) -> None:
    """A_1 = r_1 whatever follows; A_2 = r_2 + 10 (r_2 - r_1), and in stage I r_2 alone; the user's word has none."""
    for part, one, other in (
        (credit.by_turn(1.0, 10.0), first, second + 10 * (second - first)),
        (credit.by_turn(0.0, 0.0), 0.0, second),
    ):
        (made,) = run(context(table()), Part("given", lambda c, g, s: ([talk(first, second)], s)), part)
        np.testing.assert_allclose(made.notes["advantage"].values[0], [one, one, 0, other, other])
        np.testing.assert_allclose(made.notes["first_turn"].values[0], [1, 1, 0, 0, 0])


def test_stage_one_holds_the_first_attempt_and_pays_the_second() -> None:
    """Policy gradient on second attempts alone; the KL's gradient on first attempts alone."""
    engine = table(1)
    engine.combine("base", {"current": 0.5})
    first = [row for prefix, row in engine.prefixes.items() if 3 not in prefix]
    for kl, held in ((0.0, True), (0.5, False)):
        stage = toy.recipe("score", kl_first=kl, baseline=False).stages[0].streams[0]
        groups = run(context(engine), sources.conversed(toy.TASK, 6, 40, "3"), stage.signal, stage.credit)
        base = engine.outputs(groups, ["logp"], "base")
        groups = [
            replace(g, notes={**g.notes, "logp:base": Note("token", b["logp"])})
            for g, b in zip(groups, base, strict=True)
        ]
        found = gradient(engine, groups, stage.objective)[:, first].abs().sum()
        assert (float(found) == 0) == held
    pure = gradient(engine, groups, objectives.kl("base", "k2", at="first_turn"))
    alone = [
        replace(g, responses=tuple(replace(r, trained=r.trained & (r.segment == 0)) for r in g.responses))
        for g in groups
    ]
    hand = gradient(engine, alone, objectives.kl("base", "k2", "token")) * count(alone).tokens
    torch.testing.assert_close(pure_sum(engine, groups), hand)
    assert float(pure.abs().sum()) > 0


def pure_sum(engine: TabularEngine, groups: list[Group]) -> torch.Tensor:
    return gradient(engine, groups, objectives.kl("base", "k2", "token", at="first_turn")) * count(groups).tokens


def test_rise_is_the_mean_over_attempts_of_their_weighted_nll() -> None:
    engine, tau = table(2), 0.4
    recipe = toy.recipe("rise", tau=tau, samples=20, turns=3)
    stream = recipe.stages[0].streams[0]
    before = run(context(engine), stream.source, stream.signal)
    after = run(context(engine), stream.source, stream.signal, stream.credit)
    turns = sum(len(spans(r)) for g in before for r in g.responses)

    def weight(r: Response, s: Score, k: int) -> float:
        return float(np.exp(s.parts[f"turn {k + 1}"] / tau)) / len(spans(r)[k]) / turns

    torch.testing.assert_close(gradient(engine, after, stream.objective), by_hand(engine, before, weight))


def test_with_infinite_tau_every_attempt_weighs_the_same_and_success_keeps_right_ones() -> None:
    engine = table(3)
    groups = talks(engine)
    given = Part("given", lambda c, g, s: (groups, s))
    for g in run(context(engine), given, credit.weigh_turns(1e12)):
        for r, a in zip(g.responses, g.notes["advantage"].values, strict=True):
            sums = [float(a[span].sum()) for span in spans(r)]
            np.testing.assert_allclose(sums, sums[0])
    for g in run(context(engine), given, credit.weigh_turns(0.4, "success")):
        for r, s in zip(g.responses, g.scores, strict=True):
            trained = [bool(r.trained[span].all()) for span in spans(r)]
            assert trained == [s.parts[f"turn {k + 1}"] == 1 for k in range(len(trained))]


@pytest.mark.parametrize(
    "criterion, kept", [("all", [1, 1, 1]), ("better", [1, 0, 1]), ("best", [0, 0, 1]), ("success", [0, 0, 1])]
)
def test_criteria_of_attempts(criterion: str, kept: list[int]) -> None:
    from equipoise.parts.credit.turns import KEEPS

    assert KEEPS[criterion](np.array([0.0, 0.0, 1.0])).tolist() == [bool(x) for x in kept]


def test_a_right_attempt_is_the_last_and_the_last_reply_is_a_better_one() -> None:
    engine = table(4)
    talk = sources.conversed(toy.TASK, 6, 30, "3", until_right=True)
    plain = run(context(engine), talk, signals.turns(toy.TASK))
    better = run(context(engine), talk, sources.last_reply_from(toy.TASK, "best", 8), signals.turns(toy.TASK))
    shown = run(context(engine), talk, sources.last_reply_from(toy.TASK, "demonstration", 1))
    rates = []
    for made in (plain, better):
        both = [(r, s) for g in made for r, s in zip(g.responses, g.scores, strict=True) if len(spans(r)) == 2]
        assert both and all(s.parts["turn 1"] == 0 for _, s in both)
        rates.append(np.mean([s.value for _, s in both]))
    assert rates[1] > rates[0] + 0.2
    for g in shown:
        for r in g.responses:
            if len(spans(r)) == 2:
                assert r.ids[spans(r)[1]].tolist() == [int(toy.wanted(g.prompt)), 1, 0] and r.logprobs is None
    logps = engine.outputs(better, ["logp"])
    for g, found in zip(better, logps, strict=True):
        for r, x in zip(g.responses, found["logp"], strict=True):
            assert r.logprobs is not None
            np.testing.assert_allclose(r.logprobs, x, atol=1e-6)


def test_motif_with_one_round_is_grpo(tmp_path: Path) -> None:
    ends = []
    for method, more in (("motif", {"rounds": 1}), ("grpo", {})):
        made = toy.loop(
            tmp_path / method, method, Budget(flops=9000.0), engine=toy.engine(), arguments={**more, "lr": 1.0}
        )
        made.run()
        ends.append(made.engine.weights["logits"].detach())  # type: ignore[attr-defined]
    assert torch.equal(*ends) and ends[0].abs().sum() > 0


def test_the_reward_of_a_first_round_is_what_later_ones_make_of_it() -> None:
    """E[r | y = "a"] = pi(w | a 3) pi(end | a 3 w), the exact value, within 4 standard errors of 4,000 chains."""
    engine, n = table(5), 4000
    first = replace(engine.encode(toy.PROMPTS[0]), ids=(0,))
    given = Part("given", lambda c, g, s: ([Group(first, (toy.response([2, 0], text="2"),))], s))
    part = signals.continued(toy.TASK, signals.appended("{} 3"), n)
    ((score,),) = [g.scores for g in run(context(engine), given, part)]
    pi = torch.softmax(engine.weights["logits"][0].detach(), -1)
    want = int(toy.wanted(first))
    exact = float(pi[engine.prefixes[(2, 3)], want] * pi[engine.prefixes[(2, 3, want)], 0])
    assert abs(score.value - exact) < 4 * np.sqrt(exact * (1 - exact) / n) and exact > 0.01


def test_groups_whose_second_pass_does_not_fit_are_dropped_and_all_passes_are_charged() -> None:
    engine = table(6)
    ctx = context(engine, 6 * 2 * 3 + 2 * 2 * 3 * 3)
    draw, part = sources.sampled(toy.TASK, 6, 2), signals.continued(toy.TASK, signals.appended("{}"), 3)
    kept = run(ctx, draw, part)
    assert len(kept) == 2 and len(ctx.dropped) == 4
    assert sum(len(r.ids) for g in [*kept, *ctx.dropped] for r in g.responses) < engine.spent().generated_tokens
    assert engine.spent().generated_tokens <= ctx.ledger.spent.generated_tokens  # type: ignore[attr-defined]


def test_the_solver_is_frozen_and_may_refuse_hints_that_are_answers() -> None:
    engine = table(7)
    engine.combine("base", {"current": 1.0})
    ctx = context(engine)
    first = engine.encode(toy.PROMPTS[0])
    said = toy.response([int(toy.wanted(first)), 0], text=toy.wanted(first))
    given = Part("given", lambda c, g, s: ([Group(first, (said,))], s))
    rewrite = signals.appended("{} 3")
    before = run(ctx, given, signals.continued(toy.TASK, rewrite, 500, policy="base"))
    with torch.no_grad():
        engine.weights["logits"].zero_()
    assert run(ctx, given, signals.continued(toy.TASK, rewrite, 500, policy="base"))[0].scores == before[0].scores
    assert run(ctx, given, signals.continued(toy.TASK, rewrite, 500))[0].scores != before[0].scores
    (none,) = run(ctx, given, signals.continued(toy.TASK, rewrite, 500, policy="base", direct=False))
    assert before[0].scores[0].value > 0 == none.scores[0].value
    assert "policy:base" in toy.recipe("lm_guided_cot").needs


def by_last(task: Task = toy.TASK, longest: int = 3) -> Task:
    """The task whose verdict is on the last token: what comes before it is a way there."""
    judge = task.verify
    assert judge is not None
    verify = lambda prompts, texts: judge(prompts, [(t.split() or [""])[-1] for t in texts])  # noqa: E731
    return replace(task, verify=verify, max_new_tokens=longest)


def test_a_response_may_end_at_a_sequence() -> None:
    drawn = run(context(table()), sources.sampled(toy.TASK, 6, 40, stop=("3", "1 2")))
    every = [(r.text, r.stop) for g in drawn for r in g.responses]
    assert {stop for _, stop in every} == {"sequence", "eos", "length"}
    for text, stop in every:
        assert [text.endswith(("3", "1 2")), "3" in text or "1 2" in text] == [stop == "sequence"] * 2


@pytest.mark.parametrize("ids, stop", [([2], "sequence"), ([2, 0], "eos")])
def test_the_reward_of_a_beginning_is_what_the_rest_makes_of_it(ids: list[int], stop: Stop) -> None:
    """E[r | y = "2 ..."] = pi(w | 2) pi(end | 2 w): longer replies are truncated. The end of a turn is taken back."""
    engine, n = table(11), 4000
    first, pi = engine.encode(toy.PROMPTS[0]), torch.softmax(engine.weights["logits"][0].detach(), -1)
    begun = replace(toy.response(ids, text="2"), stop=stop)
    given = Part("given", lambda c, g, s: ([Group(first, (begun,))], s))
    ((score,),) = [g.scores for g in run(context(engine), given, signals.continued(by_last(), None, n))]
    want = int(toy.wanted(first))
    exact = float(pi[engine.prefixes[(2,)], want] * pi[engine.prefixes[(2, want)], 0])
    assert abs(score.value - exact) < 4 * np.sqrt(exact * (1 - exact) / n) and exact > 0.05


def test_a_beginning_as_long_as_a_reply_earns_nothing() -> None:
    engine = table(11)
    first = engine.encode(toy.PROMPTS[0])
    begun = replace(toy.response([2, 3, 1], text="2 3 1"), stop="length")
    given = Part("given", lambda c, g, s: ([Group(first, (begun,))], s))
    for longest, earns in ((3, False), (4, True)):
        (made,) = run(context(engine), given, signals.continued(by_last(longest=longest), None, 50))
        assert (made.scores[0].value > 0) == earns


def test_rationales_that_a_frozen_solver_completes_are_learned(tmp_path: Path) -> None:
    """The share of right first tokens of rationales "a 3", from which the solver says a; against shuffled rewards, and
    against distillation alone, over 3 seeds."""
    rates: dict[str, list[float]] = {"real": [], "control": [], "distilled": []}
    for name, task in (("real", toy.TASK), ("control", toy.shuffled()), ("distilled", toy.TASK)):
        for seed in range(3):
            init = toy.copying()
            init[:, 1:4] = init[:, 1:4].flip(-1)  # after one token, say 3
            engine = TabularEngine(6, 4, 4, init=init, heads=["value"], optimiser="sgd")
            share = {"distil_share": 1.0} if name == "distilled" else {}
            loop = toy.loop(
                tmp_path / f"{name}{seed}", "lm_guided_cot", Budget(flops=60_000.0), seed, by_last(task, 4),
                engine=engine, arguments={"until": "3", **share},
            )  # fmt: skip
            assert len(loop.recipe.stages) == (2 if share else 3)
            loop.run()
            pi = torch.softmax(engine.weights["logits"][:, engine.prefixes[()]].detach(), -1)
            rates[name].append(float(np.mean([pi[i, int(toy.wanted(p))] for i, p in enumerate(toy.PROMPTS)])))
    for other in ("control", "distilled"):
        gap = np.mean(rates["real"]) - np.mean(rates[other])
        error = np.sqrt((np.var(rates["real"], ddof=1) + np.var(rates[other], ddof=1)) / 3)
        assert gap > 3 * error and gap > 0.02, rates


def judged(statuses: Sequence[str], text: str = "1") -> Group:
    responses = tuple(toy.response([1, 0], text=text) for _ in statuses)
    scores = tuple(Score(float(s == "right"), s) for s in statuses)  # type: ignore[arg-type]
    return Group(toy.PROMPTS[0], responses, scores)


def test_the_table_of_verdicts() -> None:
    part = signals.table()
    (made,) = part(context(table()), [judged(["right", "wrong", "unparsed"])], None)[0]
    assert [s.value for s in made.scores] == [3.0, -0.5, -3.0]
    (made,) = signals.table(pattern="<a>.*</a>")(context(table()), [judged(["right", "unparsed"], "<a>1</a>")], None)[0]
    assert [s.value for s in made.scores] == [3.0, -1.0]
    (made,) = signals.table(pattern="<a>.*</a>")(context(table()), [judged(["right"])], None)[0]
    assert [s.value for s in made.scores] == [-3.0]


@pytest.mark.parametrize(
    "form, text, mid", [
        ("all", "5+6=11, 1+1+1=3: 31", 0.5), ("all", "5+6=11, 1+1+1=4: 31", 0.0),
        ("partial", "5+6=11, 1+1+1=4: 31", 1 / 3),
        ("discounted", "5+6=11, 1+1+1=4: 31", 0.5 * 8 / 11), ("discounted", "5+6=11, 1+1+1=3: 31", 0.75),
        ("partial", "5+6=11, 1+1+1=3, 5+6=11, 1+1+1=3: 31", 1 / 3),
    ],
)  # fmt: skip
def test_sub_answers_are_paid_once_each(form: str, text: str, mid: float) -> None:
    task = tasks.load("addition", difficulty=2)
    prompt = replace(task.splits["train"][0], meta={"a": 15, "b": 16}, answer=31)
    group = replace(judged(["right"], text), prompt=prompt)
    part = signals.add_sub_answers(task, 0.5, form)  # type: ignore[arg-type]
    (made,) = part(context(table()), [group], None)[0]
    assert made.scores[0].parts["mid"] == pytest.approx(mid)


def test_sub_answers_are_paid_only_while_the_policy_is_not_falling_back() -> None:
    part, state, gates = signals.add_sub_answers(toy.TASK, 0.5, "partial", 0.05), None, []
    for right in (2, 2, 1, 1, 3):  # of 4
        groups, state = part(context(table()), [judged(["right"] * right + ["wrong"] * (4 - right))], state)
        gates.append(groups[0].scores[0].parts["gate"])
        assert all(s.parts["mid"] == 0 for s in groups[0].scores if s.status == "wrong")
    assert gates == [1, 1, 0, 1, 1] and state == 0.75


def test_puzzles_of_more_people_come_later() -> None:
    task = tasks.load("knights", difficulty=3, least=1, train=60)
    made = recipes.build("logic_rl", task)
    assert [s.name for s in made.stages] == ["people 2", "people 3", "people 4"]
    assert [s.until for s in made.stages] == pytest.approx([1 / 3, 2 / 3, 1])
    for size, part in enumerate(sources.by_level(task, "people").values(), start=2):
        assert {len(p.meta["people"]) for p in part.splits["train"]} == {size}
    assert len(recipes.build("logic_rl", task, curriculum=False).stages) == 1


@pytest.mark.parametrize(
    "method, arguments, message",
    [
        ("score", {"instruction": " "}, "say is empty"),
        ("score", {"first_share": 1.0}, r"in \[0, 1\)"),
        ("rise", {"tau": 0.0}, "tau=0"),
        ("rise", {"criterion": "most"}, "'most'"),
        ("rise", {"teacher": "me"}, "'me'"),
        ("motif", {"rounds": 0}, "at least 1, which is GRPO"),
        ("motif", {"template": "no place"}, "expected one {}"),
        ("lm_guided_cot", {"distil_share": 0.0}, "above 0, at most 1"),
        ("interleaved", {"form": "some"}, "'some'"),
        ("logic_rl", {"pattern": "("}, "no regular expression"),
        ("canoe", {"warm": 1.0}, r"\[0, 1\)"),
    ],
)
def test_bad_inputs_are_told(method: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        toy.recipe(method, **arguments)


def test_methods_say_what_a_task_lacks() -> None:
    with pytest.raises(ArgumentError, match="a check of steps"):
        toy.recipe("interleaved", replace(toy.TASK, steps=None))
    with pytest.raises(ArgumentError, match="demonstrations"):
        toy.recipe("rise", replace(toy.TASK, demonstrate=None), teacher="demonstration")


def test_canoe_learns_from_its_own_long_answers(tmp_path: Path) -> None:
    """The share of right first tokens after the context, against shuffled rewards, over 3 seeds."""
    rates: dict[str, list[float]] = {"real": [], "control": []}
    for name, task in (("real", toy.TASK), ("control", toy.shuffled())):
        for seed in range(3):
            loop = toy.loop(tmp_path / f"{name}{seed}", "canoe", Budget(flops=60_000.0), seed, toy.with_context(task))
            loop.run()
            engine = loop.engine
            assert isinstance(engine, TabularEngine)
            pi = torch.softmax(engine.weights["logits"][:, engine.prefixes[(3,)]].detach(), -1)
            rates[name].append(float(np.mean([pi[i, int(toy.wanted(p))] for i, p in enumerate(toy.PROMPTS)])))
    gap = np.mean(rates["real"]) - np.mean(rates["control"])
    error = np.sqrt((np.var(rates["real"], ddof=1) + np.var(rates["control"], ddof=1)) / 3)
    assert gap > 3 * error and gap > 0.02, rates


def test_canoe_for_the_short_answer_alone_makes_no_second_pass_and_a_warm_up_teaches_from_demonstrations() -> None:
    task = tasks.load("facts")
    (both,) = recipes.build("canoe", task).stages[0].streams
    warm, alone = (s.streams[0] for s in recipes.build("canoe", task, long=False, warm=0.25).stages)
    assert both.signal is not None and "continued" in both.signal.name
    assert alone.signal is not None and "continued" not in alone.signal.name
    assert warm.source.needs == {"demonstrations"} and warm.signal is None


def test_a_long_answer_stands_for_its_context_and_nothing_is_escaped() -> None:
    prompt = tasks.load("facts").splits["train"][0]
    asked = signals.replaced("context", "=>")(prompt, r"Bob \d lives => Rome")
    question = prompt.messages[0]["content"].removeprefix(prompt.meta["context"])
    assert asked.messages[0]["content"] == r"Bob \d lives" + question
    with pytest.raises(DataError, match="column 'other'"):
        signals.replaced("other", "=>")(prompt, "x => y")


@pytest.mark.parametrize(
    "text, reward", [("a" * 5 + "=> x", 4.0), ("a" * 9 + "=> x", 3.0), ("a => x", 3.0), ("x", 1.0)]
)
def test_the_four_rewards_of_a_long_and_a_short_answer(text: str, reward: float) -> None:
    group = judged(["right"], text)
    scored = replace(group.scores[0], parts={"itself": 1.0})
    group = replace(group, prompt=replace(group.prompt, meta={"context": "c" * 10}), scores=(scored,))
    (made,) = signals.add_form_and_length("context", "=>")(context(table()), [group], None)[0]
    assert made.scores[0].value == reward and made.scores[0].status == "right"


def test_words_and_form_are_added_to_the_verdict() -> None:
    group = judged(["right", "wrong", "unparsed"])
    answers = ("SELECT a FROM t", "select B from t", None)
    scores = tuple(replace(s, answer=a) for s, a in zip(group.scores, answers, strict=True))
    group = replace(group, prompt=replace(group.prompt, answer="SELECT a FROM t"), scores=scores)
    (made,) = signals.add_overlap(0.2, 0.1)(context(table()), [group], None)[0]
    assert [s.value for s in made.scores] == pytest.approx([1.3, 0.2 * 0.75 + 0.1, 0.0])
