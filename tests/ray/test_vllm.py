"""vLLM itself as a sampler: what it says is the policy, after every publication. `make test-cluster` runs these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_model, make_tokenizer, policy_gradient, rollouts

from equipoise.engine import local
from equipoise.engine import ray as cluster
from equipoise.engine.batch import count
from equipoise.engine.local.draw import truncate
from equipoise.engine.ray.canary import canary
from equipoise.engine.ray.vllm_sampler import VllmSampler
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.types import Adjust, Decoder, Group, Prompt, Response

pytestmark = pytest.mark.vllm
DEADLINE_S = 500.0
CLOSE = 1e-4  # nats: float32 on both sides


def saved(path: Path, kind: str, **changes: Any) -> str:
    """A folder with a model of random weights; heads of 32 numbers, which vLLM's attention can have on CPU."""
    make_model(kind, hidden_size=128, intermediate_size=96, **changes).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmSampler]:
    """Of a model whose head is tied to its table."""
    local.deterministic(1)
    made = VllmSampler(1)
    folder = saved(tmp_path_factory.mktemp("tied"), "llama", tie_word_embeddings=True)
    made.open({"model": folder, "device": "cpu"}, DEADLINE_S)
    made.change("current")
    yield made
    made.close()


def logprobs(engine: Any, ids: Sequence[int]) -> Any:
    group = Group(Prompt("p", text="", ids=tuple(ids[:1])), (response(ids[1:]),))
    return engine.outputs([group], ["logp"])[0]["logp"][0]


def response(ids: Sequence[int]) -> Response:
    n = len(ids)
    return Response(np.array(ids), None, np.ones(n, dtype=bool), np.zeros(n, dtype=np.int32), "")


def apart(engine: Any, groups: Sequence[Group]) -> float:
    """The most that a recorded log-prob differs from the learner's, nats."""
    read = engine.outputs(groups, ["logp"])
    pairs = [(r, x) for g, o in zip(groups, read, strict=True) for r, x in zip(g.responses, o["logp"], strict=True)]
    return max(float(np.abs(r.logprobs - x)[r.trained].max()) for r, x in pairs)


def asked(engine: Any, texts: Sequence[str]) -> list[Prompt]:
    return [engine.encode(Prompt(f"p{k}", messages=({"role": "user", "content": t},))) for k, t in enumerate(texts)]


def keys(n: int, name: str = "a") -> list[Key]:
    return [Key((3, name, k)) for k in range(n)]


def test_every_tensor_that_changes_is_heard(sampler: VllmSampler) -> None:
    """One by one, so that none can hide behind another, and then all at once."""
    engine, ids = sampler.engine, canary(sampler.engine.info).ids
    noise = torch.Generator().manual_seed(0)
    before = sampler.logprobs(ids, "current")
    assert np.abs(logprobs(engine, ids) - before).max() < CLOSE
    for names in (*([name] for name in engine.trained), list(engine.trained)):
        with torch.no_grad():
            for name in names:
                parameter = engine.trained[name]
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        sampler.change("current")
        after = sampler.logprobs(ids, "current")
        assert np.abs(np.subtract(after, before)).max() > 10 * CLOSE, names
        assert np.abs(logprobs(engine, ids) - after).max() < CLOSE, names
        before = after


def test_recorded_log_probs_are_of_what_was_drawn_from(sampler: VllmSampler) -> None:
    engine = sampler.engine
    prompts = asked(engine, ["say a", "say something longer than that", "b"])
    for temperature in (1.0, 0.6):
        groups, _ = sampler.sample(prompts, 4, Decoder(12, temperature), keys(3), "current", 7, False)
        assert apart(engine, groups) < CLOSE
        assert {r.temperature for g in groups for r in g.responses} == {temperature}
        assert {r.version for g in groups for r in g.responses} == {7}
        assert groups[1].responses[2].key == "3/a/1/2"
    cut, _ = sampler.sample(prompts, 2, Decoder(12, 0.8, top_p=0.7, top_k=9), keys(3), "current", 0, False)
    for group in cut:
        for said in group.responses:
            whole = torch.tensor([[*(group.prompt.ids or ()), *said.ids.tolist()]])
            with torch.no_grad():
                z = engine.network.model(whole).logits[0, len(group.prompt.ids or ()) - 1 : -1] / 0.8
            kept = truncate(z, 0.7, 9).log_softmax(-1)
            expected = kept.gather(1, torch.tensor(said.ids)[:, None])[:, 0]
            assert torch.tensor(said.logprobs).sub(expected).abs().max() < CLOSE
    greedy, _ = sampler.sample(prompts, 1, Decoder(12, 0.0), keys(3), "current", 0, False)
    native = engine.sample(prompts, 1, Decoder(12, 0.0), keys(3))
    assert [g.responses[0].ids.tolist() for g in greedy] == [g.responses[0].ids.tolist() for g in native]
    assert all((g.responses[0].logprobs == 0).all() for g in greedy)


def test_samples_are_a_function_of_their_keys(sampler: VllmSampler) -> None:
    prompts = asked(sampler.engine, ["say a", "say b", "say c"])

    def ids(prompts: Sequence[Prompt], own: Sequence[Key], n: int = 4) -> list[list[list[int]]]:
        groups, _ = sampler.sample(prompts, n, Decoder(10), own, "current", 0, False)
        return [[r.ids.tolist() for r in g.responses] for g in groups]

    first = ids(prompts, keys(3))
    assert first == ids(prompts, keys(3))
    assert first[1:2] == ids(prompts[1:2], keys(3)[1:2])  # whatever else is sampled with it
    assert [g[:2] for g in first] == ids(prompts, keys(3), n=2)
    other = ids(prompts, keys(3, "b"))
    assert all(a != b for g, h in zip(first, other, strict=True) for a, b in zip(g, h, strict=True))
    assert len({tuple(r) for g in first for r in g}) == 12


def test_tokens_are_drawn_as_often_as_they_are_likely(sampler: VllmSampler) -> None:
    """First tokens of many samples against their probabilities: chi-squared over those that are likely enough."""
    engine = sampler.engine
    [prompt] = asked(engine, ["say"])
    n, warm = 500, 2.0
    [group], _ = sampler.sample([prompt], n, Decoder(1, warm), keys(1), "current", 0, False)
    drawn = np.bincount([int(r.ids[0]) for r in group.responses], minlength=98)
    with torch.no_grad():
        p = engine.network.model(torch.tensor([prompt.ids])).logits[0, -1].div(warm).softmax(-1).numpy()
    common = n * p >= 5
    statistic = float((((drawn - n * p) ** 2) / (n * p))[common].sum())
    degrees = int(common.sum())
    assert degrees > 5
    assert statistic < degrees + 5 * math.sqrt(2 * degrees)


def test_why_a_response_stopped(sampler: VllmSampler) -> None:
    engine = sampler.engine
    prompts = asked(engine, ["say a", "say b"])
    groups, cost = sampler.sample(prompts, 32, Decoder(30, 1.5, stop=("e", "ab")), keys(2), "current", 0, False)
    said = [r for g in groups for r in g.responses]
    for r in said:
        ended, found = r.ids[-1] in engine.info.eos, "e" in r.text or "ab" in r.text
        assert r.stop == ("eos" if ended else "sequence" if found else "length")
        assert not any(k in engine.info.eos for k in r.ids[:-1].tolist())
        assert "e" not in r.text[:-1] and (len(r.ids) == 30 or r.stop != "length")
    assert {r.stop for r in said} == {"eos", "sequence", "length"}
    long = Prompt("long", text="", ids=(5,) * (engine.info.context - 3))
    [[full]] = [g.responses for g in sampler.sample([long], 1, Decoder(9, 0.0), keys(1), "current", 0, False)[0]]
    [[same]] = [g.responses for g in engine.sample([long], 1, Decoder(9, 0.0), keys(1))]
    assert full.ids.tolist() == same.ids.tolist() and full.stop == same.stop
    assert cost.generated_tokens >= sum(len(r.ids) for r in said)


def test_spending_is_counted_as_the_native_samplers(sampler: VllmSampler) -> None:
    """By formula and not by what was cached, so a run costs the same whoever samples."""
    engine = sampler.engine
    prompts = asked(engine, ["say a", "say b"])
    before = [sampler.sample([], 1, Decoder(9), [], "current", 0, False)[1], engine.spent()]
    after = [sampler.sample(prompts, 3, Decoder(9, 0.0), keys(2), "current", 0, False)[1]]
    engine.sample(prompts, 3, Decoder(9, 0.0), keys(2))
    after.append(engine.spent())
    assert after[0] - before[0] == after[1] - before[1]


def test_what_was_cached_of_other_weights_is_forgotten(sampler: VllmSampler) -> None:
    """A prompt longer than a block of the cache is read again after a publication, also of another policy."""
    engine = sampler.engine
    [prompt] = asked(engine, ["ab" * 90])
    engine.combine("start", {"current": 1.0})
    assert len(prompt.ids or ()) > 140
    for policy in ("current", "start", "current"):
        with torch.no_grad():
            for parameter in engine.trained.values():
                parameter.mul_(1.05)
        if policy == "current":
            sampler.change(policy)
        groups, _ = sampler.sample([prompt], 2, Decoder(8), keys(1), policy, 0, False)
        with engine._as(policy):
            assert apart(engine, groups) < CLOSE
        assert {r.origin for r in groups[0].responses} == {"policy" if policy == "current" else "start"}


def test_an_environment_is_heard_between_turns(sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sampler.engine
    prompts = asked(engine, ["say a", "say b"])
    heard: list[str] = []

    def reply(prompt: Prompt, said: Response) -> Sequence[int] | None:
        heard.append(said.text)
        return engine.encode_turn("more") if int(said.segment[-1]) < 3 else None

    monkeypatch.setattr(sampler, "_ask", reply)
    groups, _ = sampler.sample(prompts, 4, Decoder(60), keys(2), "current", 0, True)
    said = [r for g in groups for r in g.responses]
    turns = [r for r in said if not r.trained.all()]
    assert turns and heard
    more = list(engine.encode_turn("more"))
    for r in turns:
        inside = np.flatnonzero(~r.trained)
        assert r.ids[inside[: len(more)]].tolist() == more and set(r.segment[inside].tolist()) <= {1, 3}
        assert (r.logprobs[~r.trained] == 0).all() and r.trained.sum() <= 60
    assert apart(engine, groups) < CLOSE


def test_what_vllm_cannot_do_is_refused(sampler: VllmSampler) -> None:
    sharper = Decoder(4, adjust=Adjust("sharper", lambda z, heads: 2 * z))
    for decoder, said in ((sharper, "'sharper'"), (Decoder(4, 2.5), "2.5"), (Decoder(4, 0.001), "0.001")):
        with pytest.raises(ArgumentError, match=rf"{said}.*--sampler local"):
            sampler.sample(asked(sampler.engine, ["a"]), 1, decoder, keys(1), "current", 0, False)


def test_adapters_are_published_alone(tmp_path: Path) -> None:
    local.deterministic(1)
    sampler = VllmSampler(1)
    try:
        sampler.open({"model": saved(tmp_path, "qwen3", head_dim=32), "device": "cpu", "lora_rank": 4}, DEADLINE_S)
        engine, ids = sampler.engine, canary(sampler.engine.info).ids
        noise = torch.Generator().manual_seed(0)
        before = sampler.logprobs(ids, "current")
        for name, parameter in (*engine.trained.items(), ("all", None)):
            with torch.no_grad():
                for p in [parameter] if parameter is not None else engine.trained.values():
                    p.add_(0.2 * torch.randn(p.shape, generator=noise))
            sampler.change("current")
            after = sampler.logprobs(ids, "current")
            assert np.abs(logprobs(engine, ids) - after).max() < CLOSE, name
            if parameter is None:
                assert np.abs(np.subtract(after, before)).max() > 100 * CLOSE
        groups, _ = sampler.sample(asked(engine, ["say a"]), 4, Decoder(10), keys(1), "current", 0, False)
        assert apart(engine, groups) < CLOSE
    finally:
        sampler.close()


def test_a_cluster_samples_with_vllm(tmp_path: Path) -> None:
    """Two learners; steps change every weight, and what is sampled is what they hold."""
    folder = saved(tmp_path, "qwen3", head_dim=32)  # its head is a table of its own
    local.deterministic(1)
    engine = cluster.load(folder, learners=2, sampler="vllm", threads=1, deadline_s=DEADLINE_S)
    try:
        for k in range(3):
            groups = rollouts(engine, prompts=3, samples=4, tokens=12, seed=k)
            assert apart(engine, groups) < CLOSE
            engine.backward(groups, policy_gradient(), count(groups))
            spent = engine.spent()
            engine.step(0.01)
            assert engine.spent() == spent
        assert engine.published.times == 3 and 0 < engine.published.canary < CLOSE
        assert engine.published.bytes == 3 * 4 * engine.info.parameters and engine.published.seconds > 0
    finally:
        engine.close()
