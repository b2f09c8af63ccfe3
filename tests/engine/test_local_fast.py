"""Every fast path against the plain one."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_models import gradients, make_engine, policy_gradient, rollouts

from equipoise.engine.local import (
    allocator,
    blocks,
    decoding,
    flash,
    fused,
    light,
    network,
    prepacked,
    products,
    sampler,
    tables,
)
from equipoise.engine.local.cache import Memory
from equipoise.engine.local.prepacked import Product, pack
from equipoise.engine.local.rows import PADDING, Sequences, build
from equipoise.engine.local.tokens import PerToken

KINDS = {
    "llama": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "llama with another activation": {"hidden_act": "gelu"},
    "qwen3": {},
    "mistral": {"sliding_window": None},
}
HERE = pytest.mark.skipif(
    prepacked.layout(torch.device("cpu"), torch.float32) is None, reason="this build of torch has no packed products"
)


def linear(x: torch.Tensor, weights: Any, biases: Any) -> torch.Tensor:
    return torch.cat([torch.nn.functional.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], -1)


LAYOUTS = {"mkl": prepacked.MKL} if torch._C.has_mkl else {}  # that this build and this processor have
if products.bfloat16():
    LAYOUTS |= {"onednn": prepacked.ONEDNN, "onednn, bfloat16": prepacked.LOW}


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.lists(st.booleans(), min_size=1, max_size=3))
def test_packed_products_are_the_plain_ones(name: str, rows: list[int], biased: list[bool]) -> None:
    """Whatever numbers of rows follow each other, in a layout for one of them or for all."""
    packing = LAYOUTS[name]
    torch.manual_seed(len(rows))
    weights = [torch.randn(7 + 3 * k, 12) for k in range(len(biased))]
    biases = [torch.randn(len(w)) if b else None for w, b in zip(weights, biased, strict=True)]
    product = Product(weights, biases, replace(packing, patience=min(packing.patience, 1)))
    low = [w.to(packing.dtype).float() for w in weights]
    for n in rows:
        x = torch.randn(n, 12).to(packing.dtype).float()
        pack([product], n)
        found, wanted = product(x), linear(x, low, biases)
        assert found.dtype == torch.float32
        assert ((found - wanted).abs() <= (1e-5 if packing.dtype == torch.float32 else 0.01) * (1 + wanted.abs())).all()
    restless = all(a != b for a, b in itertools.pairwise(rows))
    assert product.packed is not None or (packing.rigid and restless)


STEPS: dict[prepacked.Step, Any] = {
    "none": lambda found, other: found,
    "swish": lambda found, other: found * torch.sigmoid(found),
    "mul": lambda found, other: found * other,
    "add": lambda found, other: found + other,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["plain", *LAYOUTS])
def test_what_follows_a_product_is_taken_with_it(name: str, step: prepacked.Step) -> None:
    """In every layout, and of plain weights; what was given is left as it was."""
    packing = replace(LAYOUTS[name], patience=0) if name in LAYOUTS else None
    torch.manual_seed(0)
    weights, biases = [torch.randn(7, 12), torch.randn(5, 12)], [torch.randn(7), None]
    product = Product(weights, biases, packing)
    x, given = 2 * torch.randn(9, 12), torch.randn(9, 12)
    other = given.clone() if step in ("mul", "add") else None
    pack([product], 9)
    pack([product], 9)
    assert (product.packed is not None) == (name in LAYOUTS)
    found = product(x, step, other)
    wanted = STEPS[step](linear(x, weights, [biases[0], torch.zeros(5)]), given)
    exact = packing is None or packing.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=1e-5 if exact else 0.2, rtol=1e-5 if exact else 0.02)
    assert other is None or torch.equal(other, given)


@pytest.mark.parametrize("size", [1.0, 40.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("onednn", [False, True])
def test_attention_of_a_few_queries_is_softmax(
    onednn: bool, masked: bool, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every kind of processor, with the logarithm of its denominator; also of huge scores."""
    monkeypatch.setattr(flash, "exact_by_onednn", lambda: onednn)
    torch.manual_seed(0)
    query, key, value = (size * torch.randn(5, 2, n, 8) for n in (3, 9, 9))
    key, value = key[:, :, :7], value[:, :, :7]  # of a cache with room ahead
    bias = torch.zeros(5, 1, 1, 7).masked_fill_(torch.rand(5, 1, 1, 7) < 0.4, -torch.inf) if masked else None
    if bias is not None:
        bias[..., 3] = 0
    kept = query.clone(), key.clone(), value.clone()
    out, log = flash.few(query, key, value, bias, 0.3)
    scores = (query.double() @ key.double().transpose(-1, -2)) * 0.3 + (0 if bias is None else bias.double())
    torch.testing.assert_close(out.double(), scores.softmax(-1) @ value.double(), atol=1e-5 * size**2, rtol=1e-4)
    torch.testing.assert_close(log.double(), scores.logsumexp(-1), atol=1e-6 * size**2, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(kept, (query, key, value), strict=True))


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


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "onednn, bfloat16"])
@pytest.mark.filterwarnings("ignore")
def test_linear_layers_of_other_models_are_packed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their size here. The same tokens as with plain ones, log-probs within rounding."""
    packing = LAYOUTS[name]
    engine = make_engine("gemma3", seed=3)
    monkeypatch.setattr(prepacked, "LEAST", 0)
    found = []
    for used in (None, replace(packing, patience=1)):
        monkeypatch.setattr(network, "layout", lambda device, dtype, used=used: used)
        found.append(rollouts(engine, prompts=3, samples=4, tokens=12))
    for g, h in zip(*found, strict=True):
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


SPANS = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=6)), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(SPANS, st.booleans(), st.booleans(), st.sampled_from([1, 3]))
def test_attention_by_blocks_is_that_under_a_mask(
    groups: list[tuple[int, list[int]]], apart: bool, rows_of_two: bool, times: int
) -> None:
    """Whatever the lengths of prompts and of their responses, with its gradient, in float64."""
    prompts = [np.zeros(p, dtype=np.int64) for p, lengths in groups for _ in lengths]
    replies = [np.zeros(n, dtype=np.int64) for _, lengths in groups for n in lengths]
    owner = [k for k, (_, lengths) in enumerate(groups) for _ in lengths]
    seqs = Sequences(tuple(prompts), tuple(replies), tuple(np.arange(len(r)) for r in replies), tuple(owner))
    items = [tuple(np.flatnonzero(np.array(owner) == k).tolist()) for k in range(len(groups))]
    bins = [items[:1], items[1:]] if rows_of_two and len(items) > 1 else [items]
    rows = build(seqs, bins, "shared", apart)
    b, n = rows.ids.shape
    torch.manual_seed(n)
    query, key, value = (torch.randn(b * n, h, 8, dtype=torch.float64, requires_grad=True) for h in (2 * times, 2, 2))
    segment, parent, place = (torch.from_numpy(x) for x in (rows.segment, rows.parent, rows.position))
    visible = (segment[:, None] == segment[:, :, None]) | (segment[:, None] == parent[:, :, None])
    visible &= place[:, None] <= place[:, :, None]
    q, k, v = (t.unflatten(0, (b, n)).transpose(1, 2) for t in (query, key, value))
    shared = (t.repeat_interleave(times, 1) for t in (k, v))
    masked = torch.nn.functional.scaled_dot_product_attention(q, *shared, attn_mask=visible[:, None], scale=0.4)
    real = (segment != PADDING).flatten()
    wanted, found = (
        masked.transpose(1, 2).flatten(0, 1),
        blocks.Attention.apply(query, key, value, blocks.plan(rows), 0.4),
    )
    torch.testing.assert_close(found[real], wanted[real])
    slope = torch.randn_like(wanted) * real[:, None, None]
    grads = [torch.autograd.grad(out, (query, key, value), slope) for out in (found, wanted)]
    for got, right in zip(*grads, strict=True):
        torch.testing.assert_close(got, right)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(0, 2**16))
@example([0, 0, 1, 1], 0)  # as many rows for each prompt, in order
@example([1, 0, 1, 0], 0)  # and not in order
def test_attention_to_a_shared_prompt_and_to_own_tokens_adds_up_to_one_softmax(fan: list[int], seed: int) -> None:
    """Whichever row goes on from whichever prompt, with holes in the columns of both."""
    generator = torch.Generator().manual_seed(seed)
    rows, prompts = len(fan), max(fan) + 1

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query = numbers(rows, 2, 3, 8)
    columns = [(numbers(n, 2, size, 8), numbers(n, 2, size, 8)) for n, size in ((prompts, 5), (rows, 4))]
    real = [torch.rand(n, size, generator=generator) < 0.6 for n, size in ((prompts, 5), (rows, 4))]
    for seen in real:
        seen[:, -1] = True
    of_prompts, own = (fused.Seen(Memory(), seen).bias for seen in real)
    sharing = fused.Sharing.of(np.array(fan), prompts, query.device)
    before = sharing.gather(*flash.forward(sharing.spread(query), *columns[0], False, of_prompts, 0.3))
    found = fused.merged(before, flash.forward(query, *columns[1], False, own, 0.3))
    keys, values = (torch.cat([columns[0][k][fan], columns[1][k]], 2) for k in (0, 1))
    visible = torch.cat([real[0][fan], real[1]], 1)[:, None, None, :]
    wanted = torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=visible, scale=0.3)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("reductions", [(), ("entropy",), ("logsumexp",), ("entropy", "logsumexp")])
def test_the_head_gives_what_autograd_gives(
    reductions: tuple[str, ...], warm: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, and gradients added to what was there; also when another pass has used the buffer in between."""
    monkeypatch.setattr(tables, "CHUNK", chunk)
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (40, 11))
    target, temperature = torch.randint(0, 11, (40,)), torch.rand(40, dtype=torch.float64) + 0.5 if warm else None
    logits = hidden @ weight.T / (1 if temperature is None else temperature[:, None])
    wanted = PerToken.apply(logits, target, reductions)
    slopes = [torch.randn(40, dtype=torch.float64) for _ in wanted]
    right = torch.autograd.grad(wanted, (hidden, weight), slopes)
    reading = tables.Reading(target, temperature, reductions, torch.float64, tables.Buffer())
    for disturbed in (False, True):
        weight.grad, hidden.grad = torch.ones_like(weight), None
        found = tables.Head.apply(hidden, weight, reading)
        if disturbed:
            tables.Head.apply(hidden * 2, weight, reading)
        torch.autograd.backward(found, slopes)
        for got, value in zip(found, wanted, strict=True):
            torch.testing.assert_close(got, value)
        torch.testing.assert_close(hidden.grad, right[0])
        torch.testing.assert_close(weight.grad, right[1] + 1)


def test_the_tables_gradient_is_the_embeddings_but_for_padding() -> None:
    module = torch.nn.Embedding(7, 3, padding_idx=2)
    ids, slope = torch.tensor([[1, 2, 1, 6]]), torch.randn(1, 4, 3)
    module(ids).backward(slope)
    right, module.weight.grad = module.weight.grad, None
    tables.Lookup.apply(module.weight, ids, 2).backward(slope)
    torch.testing.assert_close(module.weight.grad, right)


def test_norms_and_gated_products_have_autograds_gradient() -> None:
    torch.manual_seed(0)
    x, up, slope = (torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    pairs = [
        (light.Norm.apply(x, weight, 0.1), weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.1), weight),
        (light.Gated.apply(x, up), torch.nn.functional.silu(x) * up, up),
    ]
    for found, wanted, other in pairs:
        torch.testing.assert_close(found, wanted)
        grads = [torch.autograd.grad(out, (x, other), slope) for out in (found, wanted)]
        for got, right in zip(*grads, strict=True):
            torch.testing.assert_close(got, right)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_light_layers_give_the_models_own_gradient(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = make_engine(kind, seed=3, dtype=dtype)
    groups = rollouts(ours)
    monkeypatch.setattr(sys.modules["equipoise.engine.local.probe"], "fits", lambda model, config: False)
    usual = make_engine(kind, seed=3, dtype=dtype)
    a, b = (gradients(engine, groups, policy_gradient())[0] for engine in (ours, usual))
    assert float((a - b).norm() / b.norm()) < (1e-5 if dtype == "float32" else 0.05)
    assert any("forward" in vars(m) for m in ours.network.model.modules())
    assert not any("forward" in vars(m) for m in usual.network.model.modules())


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


@pytest.mark.parametrize(("micro", "lot"), [(100, 400), (647, 2560), (5000, 5000)])
def test_prompts_are_read_in_lots_of_a_few_micro_batches(micro: int, lot: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as gain speed; never fewer than learning may hold."""
    found: list[int] = []
    plain = sampler.sample
    monkeypatch.setattr(sampler, "sample", lambda *args: found.append(args[-1]) or plain(*args))
    rollouts(make_engine("llama", rows_tokens=micro), prompts=2, samples=1, tokens=2)
    assert found == [lot]


def test_freed_memory_is_kept_where_the_c_library_is_glibc() -> None:
    assert allocator.keep_freed() == (allocator.platform.libc_ver()[0] == "glibc")
