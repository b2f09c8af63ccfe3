"""Methods that learn from the model's own agreement or entropy: identities and what they learn without labels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import toy
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.tabular import TabularEngine
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.parts import signals
from equipoise.protocols import Context
from equipoise.types import Cost, Group, Prompt, Score, Task

PROMPT = dataclasses.replace(toy.PROMPTS[0], ids=(0,))


def answering(answers: list[str | None], status: str = "wrong") -> Group:
    responses = tuple(toy.response([1, 0], text=str(i)) for i in range(len(answers)))
    return Group(PROMPT, responses, tuple(Score(0.0, status, answer=a) for a in answers))  # type: ignore[arg-type]


def reading(groups: list[Group]) -> Task:
    """A task whose verifier reads these answers."""
    scores = [s for g in groups for s in g.scores]
    return dataclasses.replace(toy.TASK, verify=lambda prompts, texts: scores)


def rewards(group: Group, **band: float) -> list[float]:
    (got,), _ = signals.agreement(reading([group]), **band)(None, [group], None)  # type: ignore[arg-type]
    return [s.value for s in got.scores]


def test_rewards_are_the_share_of_equal_answers() -> None:
    assert rewards(answering(["a", "a", "b", None])) == [0.5, 0.5, 0.25, 0.0]
    assert rewards(answering(["a", "b", "c", "d"])) == [0.0] * 4  # no two agree: cut
    assert rewards(answering(["a", None, None])) == [0.0] * 3  # one answer alone: cut
    assert rewards(answering(["a", "a", None]), unparsed=-0.5) == [2 / 3, 2 / 3, -0.5]
    assert rewards(answering(["a", "a", "a"])) == [1.0] * 3
    assert rewards(answering(["a", "a", "a"]), low=0.1) == [0.0] * 3  # the paper's lower cut
    assert signals.semantic_entropy(["a", "a", "b", "b"]) == pytest.approx(0.5)


def test_truncated_samples_and_failed_verdicts_do_not_vote() -> None:
    group = answering(["a", "a", "b", "b"])
    cut = dataclasses.replace(group.responses[1], stop="length")
    group = dataclasses.replace(group, responses=(group.responses[0], cut, *group.responses[2:]))
    assert rewards(group) == [0.25, 0.0, 0.5, 0.5]
    failed = dataclasses.replace(group.scores[3], status="timeout", answer=None)
    group = dataclasses.replace(group, scores=(*group.scores[:3], failed))
    assert rewards(group) == [0.0] * 4  # a, none, b: three voters, no two of whom agree
    whole = answering(["a", "a", "b", "b"])
    assert rewards(dataclasses.replace(whole, scores=(*whole.scores[:3], failed))) == [2 / 3, 2 / 3, 1 / 3, 0.0]


def clusters(engine: TabularEngine, prompt: Prompt) -> dict[str, float]:
    """P(answer) exactly; a response that does not end has none."""
    found: dict[str, float] = {}
    for r in engine.responses(prompt):
        answer = toy.verify([prompt], [r.text])[0].answer
        if r.stop == "eos" and answer is not None:
            found[answer] = found.get(answer, 0.0) + float(engine.logp(prompt, r).detach().exp())
    return found


def test_expected_reward_is_the_chance_that_two_samples_agree() -> None:
    """E[r] = sum_c (P(c)/G + (1 - 1/G) P(c)^2) over all groups of 3, which tends to sum_c P(c)^2 as G grows."""
    engine = toy.random_policy(0)
    every = [(r, float(engine.logp(PROMPT, r).detach().exp())) for r in engine.responses(PROMPT)]
    part = signals.agreement(toy.TASK, high=1.0)
    mean = lost = 0.0
    for chosen in itertools.product(every, repeat=3):
        weight = math.prod(p for _, p in chosen)
        (got,), _ = part(None, [Group(PROMPT, tuple(r for r, _ in chosen))], None)  # type: ignore[arg-type]
        mean += weight * float(np.mean([s.value for s in got.scores]))
        read = [s.answer for s, (r, _) in zip(got.scores, chosen, strict=True) if r.stop == "eos" and s.answer]
        if len(read) == len(set(read)):  # cut: in such a group every readable answer would earn 1/3
            lost += weight * len(read) / 9
    p = clusters(engine, PROMPT).values()
    assert mean + lost == pytest.approx(sum(x / 3 + 2 / 3 * x**2 for x in p), abs=1e-12)


def test_unanimous_groups_give_no_gradient() -> None:
    engine = toy.random_policy(1, prompts=1, vocabulary=4, length=3)
    stream = toy.recipe("empo").stages[0].streams[0]
    for answers, moves in (("aaaa", False), ("aaab", True)):
        group = answering(list(answers))
        groups, _ = signals.agreement(reading([group]))(None, [group], None)  # type: ignore[arg-type]
        groups, _ = stream.credit(None, groups, None)
        engine.discard()
        engine.backward(groups, stream.objective, count(groups))
        assert bool(engine.gradient().any()) is moves


def test_a_verifier_without_answers_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"compares canonical answers.*'toy'.*4 right verdicts.*Choose"):
        rewards(answering([None] * 4, "right"))
    with pytest.raises(ArgumentError, match=r"needs a task with a verifier"):
        signals.agreement(dataclasses.replace(toy.TASK, verify=None))
    with pytest.raises(ArgumentError, match=r"band \[0.5, 0.2\).*expected 0 <= low < high <= 1"):
        signals.agreement(toy.TASK, low=0.5, high=0.2)


def leaning() -> TabularEngine:
    """A policy that already leans to one answer, the right one for all but the last prompt."""
    engine = toy.engine()
    init = torch.zeros_like(engine.weights["logits"])
    for i, p in enumerate(toy.PROMPTS):
        init[i, 0, int(toy.wanted(p)) if i < 5 else 1] = 1.2
    made: TabularEngine = toy.engine(init=init)
    return made


def majority(engine: TabularEngine, prompt: Prompt) -> str:
    found = clusters(engine, prompt)
    return max(found, key=lambda a: found[a])


def agreeing(engine: TabularEngine) -> float:
    """Chance that two samples agree, averaged over prompts."""
    return float(np.mean([sum(x**2 for x in clusters(engine, p).values()) for p in toy.PROMPTS]))


def test_empo_comes_to_agree_with_itself_and_shuffled_answers_do_not(tmp_path: Path) -> None:
    """Over 3 seeds, by more than 3 standard errors; its pass rate nears the start policy's majority's, 5 in 6."""
    found: dict[str, list[TabularEngine]] = {}
    for name, task in (("real", toy.TASK), ("control", toy.shuffled())):
        found[name] = []
        for seed in range(3):
            run = toy.loop(
                tmp_path / f"{name}{seed}",
                "empo",
                Budget(flops=60_000.0),
                seed,
                task,
                engine=leaning(),
                arguments={"lr": 8.0},
            )
            run.run()
            assert isinstance(run.engine, TabularEngine)
            found[name].append(run.engine)
    rates = {name: [agreeing(e) for e in engines] for name, engines in found.items()}
    gap = np.mean(rates["real"]) - np.mean(rates["control"])
    error = math.sqrt((np.var(rates["real"], ddof=1) + np.var(rates["control"], ddof=1)) / 3)
    assert gap > 3 * error and gap > 0.1, rates
    start = np.mean([majority(leaning(), p) == toy.wanted(p) for p in toy.PROMPTS])
    assert np.mean([toy.success(e) for e in found["real"]]) == pytest.approx(float(start), abs=0.1)


def every_pair(engine: TabularEngine) -> list[tuple[Group, float]]:
    """Every group of two responses with its probability; the sampler's log-probs are those of the policy."""
    every = []
    for r in engine.responses(PROMPT):
        notes = engine.outputs([Group(PROMPT, (r,))], ["logp"])[0]["logp"][0]
        every.append((dataclasses.replace(r, logprobs=notes.astype(np.float64)), float(np.exp(notes.sum()))))
    return [(Group(PROMPT, (a, b)), p * q) for (a, p), (b, q) in itertools.product(every, repeat=2)]


def em_gradient(engine: TabularEngine, form: str) -> torch.Tensor:
    """The expected gradient of a form of ``em`` without KL, over all groups of two."""
    stream = toy.recipe("em", form=form, kl=0.0, **({"over": 1.0} if form == "ft" else {})).stages[0].streams[0]
    total = torch.zeros_like(engine.gradient())
    ctx = Context(engine, Key((0,)), Ledger(Budget(flops=1.0)), lambda *sizes: Cost())
    for group, weight in every_pair(engine):
        groups = [group]
        for part in (stream.signal, stream.credit):
            groups = part(ctx, groups, None)[0] if part is not None else groups
        engine.discard()
        engine.backward(groups, stream.objective, count(groups))
        total += weight * engine.gradient()
    engine.discard()
    return total


def test_forms_of_entropy_minimisation_follow_the_gradient_of_the_sequence_entropy() -> None:
    """ "sequence" alone is exact, so are "token" and "ft" together, and neither of the two alone."""
    engine = toy.random_policy(3)
    logps = torch.stack([engine.logp(PROMPT, r) for r in engine.responses(PROMPT)])
    (exact,) = torch.autograd.grad(-(logps.exp() * logps).sum(), engine.weights["logits"])
    sequence, token, direct = (em_gradient(engine, form) for form in ("sequence", "token", "ft"))
    torch.testing.assert_close(sequence, exact, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(token + direct, exact, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(token, exact, atol=1e-3) and not torch.allclose(direct, exact, atol=1e-3)


def entropy(engine: TabularEngine) -> float:
    """Of whole responses, averaged over prompts, nats."""
    every = [torch.stack([engine.logp(p, r) for r in engine.responses(p)]).detach() for p in toy.PROMPTS]
    return float(np.mean([float(-(x.exp() * x).sum()) for x in every]))


@pytest.mark.parametrize("form", ["sequence", "token", "ft"])
def test_entropy_falls_and_needs_no_verifier(form: str, tmp_path: Path) -> None:
    unlabelled = dataclasses.replace(toy.TASK, verify=None, demonstrate=None)
    arguments = {"form": form, "lr": 30.0 if form == "ft" else 3.0}
    run = toy.loop(tmp_path / form, "em", Budget(flops=60_000.0), 0, unlabelled, engine=leaning(), arguments=arguments)
    run.run()
    assert isinstance(run.engine, TabularEngine)
    assert entropy(run.engine) < entropy(leaning()) - 0.5


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"form='inf': expected 'sequence', 'token' or 'ft'"):
        toy.recipe("em", form="inf")
