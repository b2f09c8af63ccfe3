"""Every layout of rows gives the log-probs of single rows, on every architecture that packs; others fall back."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import gradients, make_engine, policy_gradient, rollouts

from equipoise.engine.local import prepacked
from equipoise.engine.local import rows as layouts
from equipoise.types import Group, Prompt, Response

PACKING = ["llama", "qwen3", "gpt2", "mistral", "gemma3", "gemma2", "granite", "mixtral", "falcon"]
HERE = prepacked.layout(torch.device("cpu"), torch.float32) is not None
FUSED = ["llama", "qwen3"] if HERE else []  # by our own step of their layers
BLOCKS = ["llama", "qwen3", "gpt2", "granite", "mixtral"]  # by blocks in place of masks; the others have windows
FALLING_BACK = {"mamba": "own", "rwkv": "none"}  # how decoding rows are remembered


def single(engine: Any, group: Any, i: int) -> np.ndarray:
    """log-probs from the model's own logits on one row, temperature 1."""
    prompt, response = list(group.prompt.ids), group.responses[i].ids
    with torch.no_grad():
        logits = engine.network.model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    logp = torch.log_softmax(logits.double(), -1)
    places = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
    return logp[places, torch.tensor(response)].numpy()


def forced(layout: str, width: int = 1) -> Any:
    def arrange(seqs: Any, info: Any, packs: bool, blocks: bool) -> Any:
        items = layouts._items(seqs, width)
        if layout == "plain":
            return layouts.build(seqs, [[i] for i in items], layout)
        if layout == "apart":
            return layouts.build(seqs, [items], layout, apart=True)
        sizes = [layouts._size(seqs, item) for item in items]
        return layouts.build(seqs, [[items[i] for i in b] for b in layouts._fill(sizes)], layout)

    return arrange


LAYOUTS = [("plain", 1, False), ("packed", 1, False), ("shared", 2, False), ("shared", 4, False)]
LAYOUTS += [("packed", 1, True), ("shared", 2, True), ("shared", 4, True), ("apart", 4, True)]


@pytest.mark.parametrize("kind", PACKING)
def test_packs_and_every_layout_equals_single_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        engine = make_engine(kind)
    assert (engine.network.packs, engine.network.splits) == (True, True)
    assert engine.network.memory == ("fused" if kind in FUSED else "columns")
    groups = rollouts(engine, prompts=3, samples=4, tokens=14)
    assert engine.network.blocks == (kind in BLOCKS)
    found = []
    for layout, width, blocks in LAYOUTS if kind in BLOCKS else LAYOUTS[:4]:
        monkeypatch.setattr("equipoise.engine.local.learner.arrange", forced(layout, width))
        monkeypatch.setattr(engine.network, "blocks", blocks)
        gradient, _, notes = gradients(engine, groups, policy_gradient())
        for group, note in zip(groups, notes, strict=True):
            for i, response in enumerate(group.responses):
                np.testing.assert_allclose(note["logp"][i], single(engine, group, i), atol=2e-5)
                np.testing.assert_allclose(response.logprobs, note["logp"][i], atol=1e-4)
        found.append(gradient)
    scale = found[0].norm()
    assert all(float((g - found[0]).norm() / scale) < 1e-5 for g in found[1:])


@pytest.mark.parametrize("kind", FALLING_BACK)
@pytest.mark.filterwarnings("ignore:.*fall")
def test_a_model_that_cannot_pack_says_so_and_is_right(kind: str) -> None:
    with pytest.warns(UserWarning) as told:
        engine = make_engine(kind)
    messages = " ".join(str(w.message) for w in told)
    assert "rows are not packed" in messages
    assert ("runs every row again" in messages) == (FALLING_BACK[kind] == "none")
    assert (engine.network.packs, engine.network.memory) == (False, FALLING_BACK[kind])
    groups = rollouts(engine, prompts=3, samples=3, tokens=6)
    gradient, metrics, notes = gradients(engine, groups, policy_gradient())
    assert set(engine.layouts) == {"plain"}
    assert float(gradient.norm()) > 0
    assert metrics["mismatch_max"][0] < 1e-4
    for group, note in zip(groups, notes, strict=True):
        for i in range(len(group.responses)):
            np.testing.assert_allclose(note["logp"][i], single(engine, group, i), atol=2e-5)


def test_a_leak_between_segments_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Had packing let a segment see another, the probe would have turned it off."""
    from equipoise.engine.local.blocks import Batch
    from equipoise.engine.local.network import Network

    def leaky(rows: Any) -> list[Batch]:
        whole = range(rows.ids.size)
        return [Batch.of([(whole, whole)], True)]

    monkeypatch.setattr("equipoise.engine.local.network.plan", leaky)
    engine = make_engine("llama")
    assert engine.network.packs and not engine.network.blocks
    honest = Network.masks
    monkeypatch.setattr(
        Network, "masks", lambda self, v, q, k: honest(self, torch.ones_like(v).tril() if v.shape[1] > 1 else v, q, k)
    )
    with pytest.warns(UserWarning, match="rows are not packed"):
        engine = make_engine("llama")
    assert not engine.network.packs


def test_a_head_that_cannot_be_split_off_uses_the_models_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    from equipoise.engine.local.network import Network

    right = gradients(engine := make_engine("granite"), groups := rollouts(engine), policy_gradient())[0]
    monkeypatch.setattr(Network, "_scale", lambda self, z: z)  # as for a model with a head nobody knows
    with pytest.warns(UserWarning, match="logits are computed at every position.*because its logits differ"):
        other = make_engine("granite")
    assert not other.network.splits and other.network.packs and other.network.memory == "columns"
    gradient, metrics, _ = gradients(other, groups, policy_gradient())
    torch.testing.assert_close(gradient, right, rtol=1e-4, atol=1e-6)
    assert metrics["mismatch_max"][0] < 1e-4


def test_long_shared_prompts_are_computed_once() -> None:
    engine = make_engine("llama", changes={"max_position_embeddings": 512})
    groups = rollouts(engine, prompts=2, samples=4, tokens=4)
    gradients(engine, groups, policy_gradient())
    assert set(engine.layouts) == {"shared"}


@pytest.mark.parametrize("packs", [True, False])
def test_a_micro_batch_counts_a_prompt_as_often_as_it_is_read(packs: bool) -> None:
    """Three responses of 2, 3 and 4 tokens to a prompt of 10: 19 tokens read once, 42 in rows of equal length."""
    group = _group(10, [2, 3, 4])
    whole = 19 if packs else 42
    assert layouts.area(group, packs) == whole
    for limit, pieces in ((whole, [(0, 1, 2)]), (whole - 1, [(1, 2), (0,)])):
        cuts = layouts.partition([group], limit, packs)
        assert [piece.responses for cut in cuts for piece in cut] == pieces
    assert len(layouts.partition([group, group], 2 * whole, packs)) == 1
    assert len(layouts.partition([group, group], 2 * whole - 1, packs)) == 2


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=6)), max_size=5),
    st.integers(1, 150),
    st.booleans(),
)
def test_micro_batches_hold_every_response_once_and_reread_no_more_than_half(
    sizes: list[tuple[int, list[int]]], limit: int, packs: bool
) -> None:
    """With ``stretch``: a micro-batch holds at most the limit, twice a shared prompt, or one response."""
    groups = [_group(prompt, lengths) for prompt, lengths in sizes]
    read = {}
    for stretch in (False, True):
        cuts = layouts.partition(groups, limit, packs, stretch)
        found = [(piece.group, i) for cut in cuts for piece in cut for i in piece.responses]
        assert sorted(found) == [(k, i) for k, (_, lengths) in enumerate(sizes) for i in range(len(lengths))]
        for cut in cuts:
            tokens = sum(layouts.area(layouts.restrict(groups[p.group], p.responses), packs) for p in cut)
            prompt, alone = sizes[cut[0].group][0], len(cut) == len(cut[0].responses) == 1
            room = max(limit, 2 * prompt) if stretch and packs and len(cut) == 1 else limit
            assert tokens <= room or alone
        read[stretch] = len(cuts)
    assert read[True] <= read[False] and (packs or read[True] == read[False])


def test_a_group_beyond_the_limit_stays_whole_where_half_of_it_is_its_prompt() -> None:
    """512 tokens with 8 replies of 31 fit what 1,024 allow; a limit that was asked for is kept."""
    engine = make_engine("llama")
    group = _group(512, [31] * 8)
    assert engine._learner.stretch and not make_engine("llama", rows_tokens=600)._learner.stretch
    assert [len(layouts.partition([group], 600, True, stretch)) for stretch in (True, False)] == [1, 4]
    long = _group(512, [300, 300, 200, 12])  # 1,024 hold 300 + 200 + 12 beside the prompt
    assert [p.responses for (p,) in layouts.partition([long], 600, True, True)] == [(0,), (1, 2, 3)]


def _group(prompt: int, lengths: list[int]) -> Group:
    def response(n: int) -> Response:
        ids = np.ones(n, dtype=np.int64)
        return Response(ids, None, np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int32), "", origin="demonstration")

    return Group(Prompt("p", text="-", ids=tuple(range(prompt))), tuple(map(response, lengths)))
