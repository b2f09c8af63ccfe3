"""The gradient of a step is the local engine's on any number of ranks (invariant 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file
from small_models import contrast, gradients, make_engine, policy_gradient, rollouts

from equipoise.engine.batch import count
from equipoise.engine.optimiser import Optimiser
from equipoise.engine.ray import slices
from equipoise.engine.ray.learner import added, merged
from equipoise.engine.ray.rank import Rank
from equipoise.types import Loss, Objective

NEEDS = frozenset({"entropy", "logsumexp", "head:value"})
OBJECTIVES = {
    "response": lambda: policy_gradient("response"),
    "group": lambda: policy_gradient("group"),
    "batch": lambda: contrast(NEEDS),
    "pairs": lambda: compared(),
}


def compared() -> Objective:
    """Scope "group", with outputs besides the log-probs: a group's responses are in one square, groups add up."""

    def loss(out: Any, batch: Any) -> Loss:
        mean = batch.per_response(out.logp + out.reduced["entropy"]) / batch.lengths
        value = batch.per_response(out.heads["value"][:, 0] + out.heads["value"][:, 0] ** 2)
        return Loss(batch.per_group(mean) ** 2 + batch.per_group(value))

    return Objective(loss, "square", "-", frozenset({"entropy", "head:value"}), "group")


def engine(kind: str = "llama", tokens: int = 10_000, **settings: Any) -> Any:
    return make_engine(kind, dtype="float64", heads=["value"], rows_tokens=tokens, **settings)


def gradient(part: Any, groups: Any, objective: Any) -> Any:
    """A rank's part in the whole gradient, its metrics and notes; clears the gradient."""
    metrics, notes = part.backward(groups, objective, count(groups))
    grads = [p.grad.full_tensor().flatten().numpy() for p in part._sharded.values() if p.grad is not None]
    part.discard()
    return np.concatenate(grads), metrics, notes


def sharded(ranks: int, groups: Any, objective: Any, **settings: Any) -> Any:
    """The gradient of so many ranks, and what each spent."""

    def work(rank: int) -> Any:
        part = Rank(engine(**settings), rank, ranks)
        return gradient(part, groups, objective)[0], part.spent()

    found = on_ranks(ranks, work)
    return torch.from_numpy(found[0][0]), [spent for _, spent in found]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_gradient_is_the_local_engines(ranks: int) -> None:
    """Five groups: neither 2 nor 3 divides them. With 60 tokens a micro-batch, groups take two passes where they stay
    together, and the last turn has work for some ranks only."""
    local = engine()
    groups = rollouts(local, prompts=5, samples=4, tokens=12)
    cases = [(name, tokens) for name in OBJECTIVES for tokens in (60, 10_000)]

    def work(rank: int) -> Any:
        part, found = Rank(engine(), rank, ranks), {}
        for name, tokens in cases:
            part._learner.limit = tokens
            found[name, tokens] = gradient(part, groups, OBJECTIVES[name]())
        return found

    every = on_ranks(ranks, work)
    for name, tokens in cases:
        local._learner.limit = tokens
        whole, metrics, notes = gradients(local, groups, OBJECTIVES[name]())
        parts, other, moved = zip(*(found[name, tokens] for found in every), strict=True)
        # A product is added to the head's gradient in the multiplication or after it, which not every processor rounds
        # alike; another split may choose another packing.
        bound = 1e-14 if ranks == 1 else 1e-6
        assert float((torch.from_numpy(parts[0]) - whole).norm()) <= bound * float(whole.norm()), (name, tokens)
        for metric in metrics.keys() - {"two_pass_gap", "mismatch_max", "mismatch"}:
            assert added(other)[metric] == pytest.approx(metrics[metric], rel=1e-6)
        for mine, theirs in zip(merged(moved), notes, strict=True):
            for a, b in zip(mine["logp"], theirs["logp"], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6)


def test_rows_that_lie_the_same_agree_to_rounding() -> None:
    """With plain rows nothing but the order of sums changes: float64 <= 1e-8."""
    groups = rollouts(engine(), prompts=5, samples=4, tokens=12)
    local = engine()
    local.network.packs = False
    whole = gradients(local, groups, policy_gradient())[0]

    def work(rank: int) -> Any:
        return gradient(Rank(unpacked(), rank, 2), groups, policy_gradient())[0]

    def unpacked() -> Any:
        made = engine()
        made.network.packs = False
        return made

    parts = torch.from_numpy(on_ranks(2, work)[0])
    assert float((parts - whole).norm() / whole.norm()) < 1e-8


def test_ranks_without_work_keep_step() -> None:
    """One group, three ranks; and all but one group without gradient, as the loop leaves them out."""
    local = engine()
    groups = rollouts(local, prompts=5, samples=4, tokens=12)
    whole = gradients(local, groups[:1], policy_gradient("group"))[0]
    parts, spent = sharded(3, groups[:1], policy_gradient("group"))
    assert float((parts - whole).norm() / whole.norm()) < 1e-6
    assert [s.trained_tokens > 0 for s in spent] == [True, False, False]  # idle passes are no work


def test_steps_optimiser_and_named_policies_are_sharded_and_equal() -> None:
    """Two clipped steps on two ranks, a snapshot read between them; the rows of both make the local weights."""
    local = engine(optimiser=Optimiser(clip=0.1))
    groups = rollouts(local, prompts=3, samples=4, tokens=8)

    def train(part: Any) -> Any:
        part.combine("start", {"current": 1.0})
        norms = []
        for _ in range(2):
            part.backward(groups, policy_gradient(), count(groups))
            norms.append(part.step(0.01)["grad_norm"])
        return norms, part.outputs(groups, ["logp"], "start"), part.outputs(groups, ["logp"])

    def work(rank: int) -> Any:
        part = Rank(engine(optimiser=Optimiser(clip=0.1)), rank, 2)
        return train(part), part.slices("current"), part.slices("optimiser")

    norms, start, now = train(local)
    found = on_ranks(2, work)
    assert [f[0][0] for f in found] == [pytest.approx(norms, rel=1e-9)] * 2
    for k, wanted in ((1, start), (2, now)):
        for mine, theirs in zip(merged([f[0][k] for f in found]), wanted, strict=True):
            np.testing.assert_allclose(mine["logp"][0], theirs["logp"][0], atol=1e-6)
    for name, weight in local.trained.items():
        rows = np.concatenate([f[1][name].rows for f in found])
        np.testing.assert_allclose(rows, weight.detach().numpy(), atol=1e-7)
        if not name.startswith("head:"):  # this objective trains no head
            assert [f[2][f"exp_avg/{name}"].rows.shape for f in found] == [f[1][name].rows.shape for f in found]


def test_a_state_is_the_local_engines_and_knows_no_ranks(tmp_path: Path) -> None:
    """Written from two ranks, read whole and by three."""
    local = engine(keep=["start"])
    groups = rollouts(local, prompts=3, samples=4, tokens=8)
    local.backward(groups, policy_gradient(), count(groups))
    local.step(0.01)
    local.save(tmp_path / "local")
    names = ("weights", "optimiser", "policy-0")
    for name in names:
        parts = [slices.read(tmp_path / "local" / f"{name}.safetensors", k, 2) for k in range(2)]
        slices.write(tmp_path / f"{name}.safetensors", parts)
        wanted, got = (load_file(f / f"{name}.safetensors") for f in (tmp_path / "local", tmp_path))
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[k], got[k]) for k in wanted)
    read = {n: [slices.read(tmp_path / f"{n}.safetensors", k, 3) for k in range(3)] for n in names}

    def work(rank: int) -> Any:
        part = Rank(engine(seed=1), rank, 3)
        part.restore(1, read["weights"][rank], {"start": read["policy-0"][rank]}, read["optimiser"][rank])
        part.backward(groups, policy_gradient(), count(groups))
        part.step(0.01)
        return part.slices("current")

    found = on_ranks(3, work)
    local.backward(groups, policy_gradient(), count(groups))
    local.step(0.01)
    for name, weight in local.trained.items():
        rows = np.concatenate([f[name].rows for f in found])
        np.testing.assert_allclose(rows, weight.detach().numpy(), atol=1e-7)


@pytest.mark.parametrize("settings", [{"lora_rank": 2}, {"checkpointing": True}], ids=["lora", "recomputed"])
def test_adapters_and_recomputed_activations(settings: Any) -> None:
    local = engine(**settings)
    groups = rollouts(local, prompts=3, samples=4, tokens=8)
    whole = gradients(local, groups, policy_gradient())[0]
    parts = sharded(2, groups, policy_gradient(), **settings)[0]
    assert float((parts - whole).norm() / whole.norm()) < 1e-6


def test_products_in_bfloat16_keep_weights_in_single_precision() -> None:
    """--dtype bfloat16: what lies on the ranks, and what the optimiser moves, stays float32."""
    local = make_engine("llama", dtype="bfloat16")
    groups = rollouts(local, prompts=3, samples=4, tokens=8)
    whole = gradients(local, groups, policy_gradient())[0]

    def work(rank: int) -> Any:
        part = Rank(make_engine("llama", dtype="bfloat16"), rank, 2)
        kinds = {str(s.rows.dtype) for s in part.slices("current").values()}
        return gradient(part, groups, policy_gradient())[0], kinds

    found = on_ranks(2, work)
    parts = torch.from_numpy(found[0][0]).double()
    assert found[0][1] == {"float32"}
    assert float((parts - whole).norm() / whole.norm()) < 0.02
