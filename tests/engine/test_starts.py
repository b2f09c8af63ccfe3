"""Responses that begin with given tokens or have several turns, on both engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import toy
from equipoise.budget import Budget, Ledger
from equipoise.engine.batch import count
from equipoise.engine.local import load
from equipoise.engine.tabular import TabularEngine
from equipoise.keys import Key
from equipoise.parts.objectives import likelihood
from equipoise.parts.sources.starts import Start, branch, extended, graft
from equipoise.protocols import Context, Engine
from equipoise.types import Decoder, Group, Prompt, Response

CHAT = Prompt(id="a", messages=({"role": "user", "content": "Add 1 and 2."},))


def engines() -> list[tuple[Engine, Prompt, tuple[int, ...]]]:
    table = toy.random_policy(3, vocabulary=3, length=4)
    tiny = load("tiny", device="cpu", dtype="float32", lora_rank=None, seed=0, heads={})
    return [(table, table.encode(toy.PROMPTS[0]), (1, 2)), (tiny, tiny.encode(CHAT), tiny.encode_text("1 + 2 ="))]


@pytest.mark.parametrize("engine, prompt, ids", engines(), ids=["tabular", "tiny"])
def test_a_grafted_response_has_the_log_probs_of_the_whole(
    engine: Engine, prompt: Prompt, ids: tuple[int, ...]
) -> None:
    start = Start(prompt, ids)
    (group,) = engine.sample([extended(start)], 3, Decoder(2), [Key((0,))])
    whole = Group(prompt, tuple(graft(engine, start, r) for r in group.responses))
    for r, found in zip(whole.responses, engine.outputs([whole], ["logp"])[0]["logp"], strict=True):
        assert tuple(r.ids[: len(ids)]) == ids and not r.trained[: len(ids)].any() and r.trained[len(ids) :].all()
        assert r.text == engine.decode(r.ids.tolist())
        assert r.logprobs is not None
        np.testing.assert_allclose(r.logprobs, found, atol=1e-4)


@pytest.mark.parametrize("engine, prompt, ids", engines(), ids=["tabular", "tiny"])
def test_branches_are_charged_and_stop_at_the_budget(engine: Engine, prompt: Prompt, ids: tuple[int, ...]) -> None:
    before = engine.spent()
    ledger = Ledger(Budget(generated_tokens=10))
    ctx = Context(
        engine, Key((0,)), ledger, bound=lambda p, n, longest, sampled: engine.bound(p, n, longest, sampled, 0, 0)
    )
    starts = [Start(prompt, ids), Start(prompt), Start(prompt, ids[:1])]
    made = branch(ctx, starts, 2, Decoder(2), "values")
    assert len(made) == 2  # of three, 4 tokens at most each
    assert ledger.spent.generated_tokens == 8
    spent = engine.spent() - before
    assert spent.generated_tokens == sum(int(r.trained.sum()) for g in made for r in g.responses) <= 8


def test_a_table_hears_its_environment() -> None:
    table = toy.random_policy(1, vocabulary=3, length=3)
    prompt = table.encode(toy.PROMPTS[0])

    def reply(prompt: Prompt, response: Response) -> tuple[int, ...] | None:
        return (2,) if response.segment[-1] == 0 else None

    (group,) = table.sample([prompt], 20, Decoder(3), [Key((1,))], reply=reply)
    spoken = [r for r in group.responses if not r.trained.all()]
    assert spoken
    for r in spoken:
        end = int(np.argmin(r.trained))
        assert r.ids[end - 1] == 0 and r.ids[end] == 2
        assert list(r.segment) == [0] * end + [1] + [2] * (len(r.ids) - end - 1)
    for r, found in zip(group.responses, table.outputs([group], ["logp"])[0]["logp"], strict=True):
        assert r.logprobs is not None
        np.testing.assert_allclose(r.logprobs, found, atol=1e-6)
    table.backward([group], likelihood(), count([group]))
    assert torch.isfinite(table.gradient()).all()


def test_a_turn_is_what_the_template_puts_between_two_replies() -> None:
    tiny = load("tiny", device="cpu", dtype="float32", lora_rank=None, seed=0, heads={})
    prompt = tiny.encode(CHAT)
    turns = (
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": "Add 1 and 2."},
        {"role": "assistant", "content": "4"},
    )
    whole = tiny.encode_reply(prompt, turns, "demonstration")
    first = tiny.encode_reply(prompt, "3", "demonstration")
    between = tuple(whole.ids[len(first.ids) :][~whole.trained[len(first.ids) :]])
    assert tiny.encode_turn("Add 1 and 2.") == between


def test_a_prefix_may_be_part_of_a_tables_prompt() -> None:
    table = TabularEngine(1, 3, 3, init=torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0)))
    prompt = replace(table.encode(toy.PROMPTS[0]), ids=(0, 1))
    (group,) = table.sample([prompt], 4, Decoder(3), [Key((2,))])
    whole = Group(table.encode(toy.PROMPTS[0]), tuple(graft(table, Start(prompt, (1,)), r) for r in group.responses))
    inside = table.outputs([group], ["logp"])[0]["logp"]
    outside = table.outputs([whole], ["logp"])[0]["logp"]
    for a, b in zip(inside, outside, strict=True):
        np.testing.assert_allclose(a, b[1:])
