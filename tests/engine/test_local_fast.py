"""Every fast path against the plain one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import make_engine, rollouts

from equipoise.engine.local import allocator, decoding, prepacked
from equipoise.engine.local.prepacked import Product
from equipoise.engine.local.tokens import PerToken

KINDS = {
    "llama": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {},
    "mistral": {"sliding_window": None},
}
HERE = pytest.mark.skipif(
    not prepacked.supported(torch.float32, torch.device("cpu")), reason="this build of torch has no MKL"
)


def linear(x: torch.Tensor, weights: Any, biases: Any) -> torch.Tensor:
    return torch.cat([torch.nn.functional.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], -1)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.skipif(
    not prepacked.supported(torch.float32, torch.device("cpu")), reason="this build of torch has no MKL"
)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.lists(st.booleans(), min_size=1, max_size=3))
def test_packed_products_are_the_plain_ones(compute: torch.dtype, rows: list[int], biased: list[bool]) -> None:
    """Whatever numbers of rows follow each other, in the layout for one of them or in another."""
    if not prepacked.supported(compute, torch.device("cpu")):
        pytest.skip("no packed products of this type here")
    torch.manual_seed(len(rows))
    weights = [torch.randn(7 + 3 * k, 12) for k in range(len(biased))]
    biases = [torch.randn(len(w)) if b else None for w, b in zip(weights, biased, strict=True)]
    product = Product(weights, biases, compute)
    bound = 1e-5 if compute == torch.float32 else 0.2
    for n in rows:
        x = torch.randn(n, 12)
        with torch.autocast("cpu", compute, enabled=compute != torch.float32):
            found = product(x)
        assert (found.float() - linear(x, weights, biases)).abs().max() < bound
    assert product.packed is not None or all(a != b for a, b in itertools.pairwise(rows))


@HERE
@pytest.mark.parametrize("name", KINDS)
def test_our_step_of_the_layers_is_the_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens as with the model's own forward, log-probs within rounding, also while rows leave and enter."""
    kind, changes = name.split()[0], KINDS[name]
    engine = make_engine(kind, seed=3, sampled_rows=7, changes=changes)
    assert engine.network.memory == "fused"
    ours = rollouts(engine, prompts=5, samples=4, tokens=20)
    monkeypatch.setattr(engine.network, "memory", "columns")
    theirs = rollouts(engine, prompts=5, samples=4, tokens=20)
    for g, h in zip(ours, theirs, strict=True):
        for r, s in zip(g.responses, h.responses, strict=True):
            assert r.ids.tolist() == s.ids.tolist()
            assert abs(r.logprobs - s.logprobs).max() < 1e-5


@pytest.mark.parametrize("kind", ["mistral", "gemma3", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_other_models_take_their_own_forward(kind: str) -> None:
    """A sliding window, norms in other places, another architecture."""
    assert make_engine(kind, seed=3).network.memory == "columns"


def test_adapters_are_part_of_our_step() -> None:
    engine = make_engine("llama", seed=3, lora_rank=2)
    with torch.no_grad():
        for name, parameter in engine.trained.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    groups = rollouts(engine, prompts=3, samples=2, tokens=8)
    read = engine.outputs(groups, ["logp"])
    for group, notes in zip(groups, read, strict=True):
        for response, logp in zip(group.responses, notes["logp"], strict=True):
            assert abs(response.logprobs - logp).max() < 1e-4


@pytest.mark.parametrize("reductions", [(), ("entropy",), ("logsumexp",), ("entropy", "logsumexp")])
def test_what_is_read_of_logits_and_its_gradient_are_autograds(reductions: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    z = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 11, (5,))
    logs = z.log_softmax(-1)
    plain = {"entropy": -(logs.exp() * logs).sum(-1), "logsumexp": z.logsumexp(-1)}
    wanted = [logs.gather(1, target[:, None])[:, 0], *(plain[name] for name in reductions)]
    found = PerToken.apply(z, target, reductions)
    slopes = [torch.randn(5, dtype=torch.float64) for _ in wanted]
    for got, value in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, value)
    grads = [torch.autograd.grad(out, z, slopes, retain_graph=True)[0] for out in (wanted, found)]
    torch.testing.assert_close(grads[1], grads[0])


def test_all_rows_that_fit_decode_together_however_few_prompts_are_read_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prompts enter in lots of one here; decoding waits for all of them, so its steps are those of one lot."""
    engine = make_engine("llama", rows_tokens=1, sampled_rows=64)
    fed: list[int] = []
    kind = decoding.Fused if engine.network.memory == "fused" else decoding.Cached
    plain = kind.feed

    def counted(self: Any, tokens: Any) -> None:
        fed.append(len(tokens))
        plain(self, tokens)

    monkeypatch.setattr(kind, "feed", counted)
    rollouts(engine, prompts=4, samples=3, tokens=5)
    assert fed[0] == 12 and len(fed) <= 4


def test_freed_memory_is_kept_where_the_c_library_is_glibc() -> None:
    assert allocator.keep_freed() == (allocator.platform.libc_ver()[0] == "glibc")
