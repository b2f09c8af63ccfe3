"""Sampling: who draws what, where responses end, what the environment says, what is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_engine, rollouts

from equipoise.errors import ArgumentError, Diverged
from equipoise.keys import Key, uniforms
from equipoise.types import Decoder, Prompt, Response


@pytest.fixture(scope="module")
def engine() -> Any:
    return make_engine("llama", seed=1)


def asked(engine: Any, n: int, text: str = "say ") -> list[Prompt]:
    return [engine.encode(Prompt(f"p{k}", messages=({"role": "user", "content": text + "ab" * k},))) for k in range(n)]


def same(a: Any, b: Any) -> None:
    """The same tokens, and log-probs up to rounding (another batch shape rounds otherwise)."""
    for g, h in zip(a, b, strict=True):
        for r, s in zip(g.responses, h.responses, strict=True):
            assert r.ids.tolist() == s.ids.tolist()
            np.testing.assert_allclose(r.logprobs, s.logprobs, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mamba", "rwkv"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rows", [1, 3, 5, 64])
def test_rows_in_flight_do_not_change_samples(kind: str, rows: int) -> None:
    """One at a time, in small lots that refill, or all at once: keys decide, not neighbours."""
    samples, tokens = (5, 24) if kind in ("llama", "gemma3") else (3, 8)
    wide, narrow = make_engine(kind, seed=1), make_engine(kind, seed=1, sampled_rows=rows)
    same(rollouts(wide, 4, samples, tokens), rollouts(narrow, 4, samples, tokens))


def test_order_and_company_of_prompts_do_not_change_samples(engine: Any) -> None:
    prompts, keys = asked(engine, 4), [Key((0, k)) for k in range(4)]
    together = engine.sample(prompts, 3, Decoder(12), keys)
    same(together[::-1], engine.sample(prompts[::-1], 3, Decoder(12), keys[::-1]))
    same(together[2:3], engine.sample(prompts[2:3], 3, Decoder(12), keys[2:3]))
    same(
        [together[0]],
        [engine.sample(prompts[:1], 5, Decoder(12), keys[:1])[0].__class__(prompts[0], together[0].responses)],
    )


def test_each_token_inverts_the_models_distribution_at_its_keys_uniform(engine: Any) -> None:
    """The whole chain, from the model's own logits and the key, one row at a time."""
    prompt, key = asked(engine, 1)[0], Key((5, "x"))
    for i, response in enumerate(engine.sample([prompt], 3, Decoder(10, temperature=0.8), [key])[0].responses):
        ids = list(prompt.ids)
        for t, token in enumerate(response.ids):
            with torch.no_grad():
                logits = engine.network.model(input_ids=torch.tensor([ids])).logits[0, -1]
            p = torch.softmax(logits.double() / 0.8, -1).numpy()
            u = uniforms(np.array([(key / i).word], dtype=np.uint64), np.array([t]))[0]
            assert int(np.searchsorted(np.cumsum(p), u, side="right")) == token
            assert response.logprobs[t] == pytest.approx(np.log(p[token]), abs=1e-4)
            ids.append(int(token))
        assert response.key == str(key / i)


def test_recorded_log_probs_are_the_learners(engine: Any) -> None:
    groups = rollouts(engine, temperature=1.3)
    for group, note in zip(groups, engine.outputs(groups, ["logp"]), strict=True):
        for response, logp in zip(group.responses, note["logp"], strict=True):
            np.testing.assert_allclose(response.logprobs, logp, atol=1e-4)


def test_ends_at_the_end_token_which_is_kept_and_trained(engine: Any) -> None:
    stops = {"eos": 0, "length": 0}
    for response in (r for g in rollouts(engine, 4, 16, 24) for r in g.responses):
        ended = [int(i) in engine.info.eos for i in response.ids]
        stops[response.stop] += 1
        assert not any(ended[:-1])
        assert ended[-1] == (response.stop == "eos")
        assert len(response.ids) == 24 or ended[-1]
        assert response.trained.all() and "<|end|>" not in response.text
    assert min(stops.values()) > 0


def test_stops_at_a_sequence(engine: Any) -> None:
    free = rollouts(engine, 4, 4, 24)[0].responses[0]
    word = free.text[2:4]
    cut = rollouts(engine, 4, 4, 24, stop=(word,))[0].responses[0]
    assert (cut.stop, cut.ids.tolist()) == ("sequence", free.ids[: len(cut.ids)].tolist())
    assert cut.text.endswith(word) and word not in cut.text[:-1]


def test_greedy_takes_the_most_likely_token(engine: Any) -> None:
    prompt = asked(engine, 1)[0]
    response = engine.sample([prompt], 2, Decoder(5, temperature=0), [Key((0,))])[0].responses[1]
    ids = list(prompt.ids)
    for token in response.ids:
        with torch.no_grad():
            assert int(engine.network.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(int(token))
    assert (response.logprobs == 0).all()


def test_truncated_sampling_stays_in_the_nucleus(engine: Any) -> None:
    for group in rollouts(engine, 2, 8, 6, top_k=1):
        assert len({tuple(r.ids) for r in group.responses}) == 1
        assert all((r.logprobs == 0).all() for r in group.responses)


def test_context_bounds_a_response() -> None:
    engine = make_engine("llama", changes={"max_position_embeddings": 48}, tokenizer=None)
    prompt = engine.encode(Prompt("p", text="x" * 40))
    responses = engine.sample([prompt], 8, Decoder(100), [Key((0,))])[0].responses
    assert max(len(r.ids) for r in responses) == 8
    assert {r.stop for r in responses if len(r.ids) == 8 and r.ids[-1] != 1} == {"length"}


@pytest.mark.parametrize("kind", ["llama", "mamba", "rwkv"])
@pytest.mark.filterwarnings("ignore")
def test_the_environment_answers_in_the_same_row(kind: str) -> None:
    engine = make_engine(kind, seed=1)
    heard: list[Response] = []

    def reply(prompt: Prompt, response: Response) -> list[int] | None:
        assert response.key.startswith(f"0/{prompt.id[1:]}/")
        heard.append(response)
        return [50, 51, 52] if int(response.segment[-1]) < 2 else None

    prompts = asked(engine, 2)
    groups = engine.sample(prompts, 8, Decoder(20), [Key((0, 0)), Key((0, 1))], reply=reply)
    spoken = [r for g in groups for r in g.responses if not r.trained.all()]
    assert spoken
    for response in spoken:
        start = int(np.argmin(response.trained))
        assert response.ids[start - 1] in engine.info.eos
        assert response.ids[start : start + 3].tolist() == [50, 51, 52]
        assert not response.trained[start : start + 3].any() and (response.logprobs[start : start + 3] == 0).all()
        assert response.segment[[0, start - 1, start, start + 2]].tolist() == [0, 0, 1, 1]
        assert len(response.ids) <= start + 3 or (response.segment[start + 3] == 2 and response.trained[start + 3])
        assert int(response.trained.sum()) <= 20
    assert len(heard) >= len(spoken) and {r.stop for r in heard} == {"eos"}
    for group, note in zip(groups, engine.outputs(groups, ["logp"]), strict=True):
        for r, logp in zip(group.responses, note["logp"], strict=True):
            np.testing.assert_allclose(r.logprobs, logp, atol=1e-4)


def test_named_policies_sample_with_their_own_weights(engine: Any) -> None:
    other = make_engine("llama", seed=1, keep=["start"])
    with torch.no_grad():
        for p in other.trained.values():
            p.add_(0.3 * torch.randn_like(p))
    prompts, keys = asked(engine, 2), [Key((0, 0)), Key((0, 1))]
    groups = other.sample(prompts, 3, Decoder(8), keys, policy="start")
    same(groups, engine.sample(prompts, 3, Decoder(8), keys))
    assert groups[0].responses[0].origin == "start"
    assert any(
        a.responses[0].ids.tolist() != b.responses[0].ids.tolist()
        for a, b in zip(other.sample(prompts, 3, Decoder(8), keys), groups, strict=True)
    )


def test_wrong_calls_and_broken_weights_are_told() -> None:
    engine = make_engine("llama")
    with pytest.raises(ArgumentError, match="2 prompts and 1 keys"):
        engine.sample(asked(engine, 2), 1, Decoder(4), [Key((0,))])
    assert engine.sample([], 4, Decoder(4), []) == []
    with torch.no_grad():
        next(iter(engine.trained.values())).fill_(float("nan"))
    with pytest.raises(Diverged, match="no token can be drawn"):
        rollouts(engine)
