"""Products on CPU: exact whoever multiplies, and with --dtype bfloat16 only what they read is rounded."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from small_models import gradients, make_engine, policy_gradient, rollouts
from torch import Tensor

from equipoise.engine.local import flash, fused, prepacked, products


def low(x: Tensor) -> Tensor:
    """Rounded to bfloat16, in float64."""
    return x.detach().bfloat16().double()


def near(found: Tensor, wanted: Tensor) -> bool:
    """As float32 sums of a hundred terms of size 1 are; a result in bfloat16 would be off by a hundred times more."""
    return float((found.detach().double() - wanted.detach()).abs().max()) < 3e-5


@pytest.mark.parametrize(("rows", "read", "made"), [(1, 64, 64), (64, 576, 960), (300, 128, 512), (40, 512, 2000)])
@pytest.mark.parametrize("onednn", [False, True])
def test_float32_products_are_exact_but_where_the_processor_says_that_it_rounds(
    onednn: bool, rows: int, read: int, made: int
) -> None:
    """Of every pass: forward, and backward to either operand."""
    torch.manual_seed(0)
    x, w, slope = torch.randn(rows, read), torch.randn(made, read), torch.randn(rows, made)
    with products.by_onednn(onednn):
        found = [x @ w.T, slope @ w, slope.T @ x]
    wanted = [x.double() @ w.double().T, slope.double() @ w.double(), slope.double().T @ x.double()]
    gap = max(float((f - e).abs().max()) / e.std().item() for f, e in zip(found, wanted, strict=True))
    assert gap < 3e-5 or (onednn and products.rounds())


@pytest.mark.parametrize(
    ("vendor", "bfloat16", "rounds", "kinds"),
    [
        ("GenuineIntel", True, True, {"float32": "BLAS", "bfloat16": "rounded"}),
        ("GenuineIntel", True, False, {"float32": "BLAS", "bfloat16": "cast"}),
        ("AuthenticAMD", True, False, {"float32": "oneDNN", "bfloat16": "cast", "float64": "BLAS"}),
        ("AuthenticAMD", True, True, {"float32": "BLAS", "bfloat16": "rounded"}),
        ("AuthenticAMD", False, False, {"float32": "BLAS", "bfloat16": "cast"}),
        ("", True, False, {"float32": "BLAS", "bfloat16": "cast"}),
    ],
)
def test_onednn_multiplies_where_it_was_measured_to_be_faster_and_never_rounds_unasked(
    vendor: str, bfloat16: bool, rounds: bool, kinds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("vendor", vendor), ("bfloat16", bfloat16), ("rounds", rounds)):
        monkeypatch.setattr(products, name, lambda value=value: value)
    monkeypatch.setattr(products, "exact_by_onednn", products.exact_by_onednn.__wrapped__)
    assert {dtype: products.kind("cpu", dtype) for dtype in kinds} == kinds
    packed = {"oneDNN": prepacked.ONEDNN, "cast": prepacked.LOW if bfloat16 else None, "rounded": None}
    for dtype, kind in kinds.items():
        if kind in packed:
            assert prepacked.layout(torch.device("cpu"), getattr(torch, dtype)) is packed[kind]
    assert products.kind("cuda", "bfloat16") == "of the device"


def test_where_tensors_are_cast_the_sampler_casts_only_what_products_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, values, sums and states stay float32 between products of packed weights."""
    monkeypatch.setattr(products, "rounds", lambda: False)
    monkeypatch.setattr(products, "exact_by_onednn", lambda: False)
    wide = {"hidden_size": 64, "intermediate_size": 128}
    exact, cast = (make_engine("llama", seed=3, dtype=dtype, changes=wide) for dtype in ("float32", "bfloat16"))
    assert cast.network.memory == "fused" and not cast.network.rounds
    seen: set[torch.dtype] = set()
    usual = fused.Layer.step

    def step(self: Any, x: Tensor, *args: Any) -> Tensor:
        found = usual(self, x, *args)
        kept = decoding_memory(args[-1])
        seen.update({x.dtype, found.dtype, *(t.dtype for t in kept)})
        assert all(p.packed is not None for p in self.products)
        return found

    monkeypatch.setattr(fused.Layer, "step", step)
    groups = rollouts(cast, prompts=6, samples=6, tokens=12)
    assert seen == ({torch.float32} if products.bfloat16() else set())  # without, the model's own forward runs
    recorded = np.concatenate([r.logprobs for g in groups for r in g.responses if r.logprobs is not None])
    wanted, found = read(exact, groups), read(cast, groups)
    gap = np.abs(found - wanted).mean()
    assert 1e-4 < np.abs(recorded - wanted).mean() < 1.5 * gap
    assert np.abs(recorded - found).mean() < 1.5 * gap


def decoding_memory(attend: Any) -> list[Tensor]:
    """The keys and values that a step's attention reads and appends to."""
    held = inspect.getclosurevars(attend).nonlocals
    prompts, own = held["prompts"].memory, held["own"].memory
    return [t for memory in (prompts, own) for layer in memory.layers for t in (layer.keys, layer.values)]


def test_a_product_rounds_its_operands_and_not_its_sums_backward_too() -> None:
    """Or, on a processor that cannot, nothing at all."""
    torch.manual_seed(0)
    x, w = torch.randn(40, 96, requires_grad=True), torch.randn(48, 96, requires_grad=True)
    slope = torch.randn(40, 48)
    with products.by_onednn(True):
        y = torch.nn.functional.linear(x, w)
        dx, dw = torch.autograd.grad(y, (x, w), slope)
    assert y.dtype == dx.dtype == dw.dtype == torch.float32
    read, other = (low, torch.Tensor.double) if products.rounds() else (torch.Tensor.double, low)
    assert near(y, read(x) @ read(w).T) and not near(y, other(x) @ other(w).T)
    assert near(dx, read(slope) @ read(w)) and near(dw, read(slope).T @ read(x))
    again = torch.nn.functional.linear(x, w)
    assert near(again, x.double() @ w.double().T)


def test_attention_does_not_round_whatever_products_do() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 40, 64) for _ in range(3))
    slope = torch.randn_like(q)

    def both() -> list[Tensor]:
        found = flash.forward(q, k, v, True, None, 0.1)
        return [*found, *flash.backward(slope, q, k, v, found, True, None, 0.1)]

    plain = both()
    with products.by_onednn(True):
        inside = both()
        assert torch.get_float32_matmul_precision() == "medium"
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_process_has_its_setting_back(ends: str) -> None:
    before = torch.get_float32_matmul_precision()

    def work() -> None:
        with products.by_onednn(True), products.by_onednn(False), products.by_onednn(True):
            if ends == "badly":
                raise ValueError

    if ends == "badly":
        with pytest.raises(ValueError):
            work()
    else:
        work()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_an_engine_that_rounds_is_nearer_to_float32_than_one_that_casts(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And either leaves a float32 engine beside it as it was, and agrees with itself. Wide enough to round."""
    wide = {"hidden_size": 64, "intermediate_size": 128} if kind != "gpt2" else {"n_embd": 64}
    exact, ours = (make_engine(kind, seed=3, dtype=dtype, changes=wide) for dtype in ("float32", "bfloat16"))
    groups = rollouts(ours, prompts=6, samples=6, tokens=12)
    wanted, found = read(exact, groups), read(ours, groups)
    _, _, notes = gradients(ours, groups, policy_gradient())
    assert np.array_equal(flat(notes), found)  # with a gradient and without
    assert np.array_equal(read(exact, groups), wanted)
    recorded = np.concatenate([r.logprobs for g in groups for r in g.responses if r.logprobs is not None])
    rounds = products.rounds()
    monkeypatch.setattr(products, "rounds", lambda: False)
    cast = read(make_engine(kind, seed=3, dtype="bfloat16", changes=wide), groups)
    gap = np.abs(found - wanted).mean()
    assert gap > 1e-4
    assert gap < np.abs(cast - wanted).mean() if rounds else np.array_equal(cast, found)
    assert np.abs(recorded - found).mean() < (0.7 if rounds else 1.5) * gap  # the sampler as the learner


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_of_transformers_does_not_round_either(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that we do not decode ourselves. It is still called "sdpa", which models look at (falcon does)."""
    seen: list[str] = []
    usual = flash.sdpa_attention_forward

    def note(*args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return usual(*args, **kwargs)

    monkeypatch.setattr(flash, "sdpa_attention_forward", note)
    engine = make_engine("gemma3", dtype=dtype)
    gradients(engine, rollouts(engine), policy_gradient())
    assert engine.network.config._attn_implementation == "sdpa"
    assert set(seen) == {"highest"}


def read(engine: Any, groups: Any) -> np.ndarray:
    return flat(engine.outputs(groups, ["logp"]))


def flat(notes: Any) -> np.ndarray:
    return np.concatenate([np.concatenate(note["logp"]) for note in notes])
