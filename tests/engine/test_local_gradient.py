"""One gradient, however the step is cut up (invariant 1); KL to the start is exactly 0 (invariant 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import contrast, gradients, make_engine, policy_gradient, rollouts

from equipoise.engine.batch import count, projection
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError, Diverged, UnknownName
from equipoise.parts.objectives import near_demonstration
from equipoise.types import Loss, Note, Objective


@pytest.fixture(scope="module")
def exact() -> Any:
    return make_engine(dtype="float64", heads={"value": 1}, keep=["start"])


@pytest.fixture(scope="module")
def groups(exact: Any) -> Any:
    return rollouts(exact, prompts=5, samples=4, tokens=12)


def limited(engine: Any, tokens: int) -> None:
    engine._learner.limit = tokens


@settings(max_examples=12, deadline=None)
@given(
    order=st.permutations(range(5)),
    tokens=st.sampled_from([1, 60, 200, 400, 10_000]),
    scope=st.sampled_from(["response", "group"]),
)
def test_split_and_order_do_not_matter(exact: Any, groups: Any, order: list[int], tokens: int, scope: str) -> None:
    limited(exact, 10_000)
    whole, metrics, notes = gradients(exact, groups, policy_gradient(scope))
    limited(exact, tokens)
    parts, other, moved = gradients(exact, [groups[k] for k in order], policy_gradient(scope))
    # 1e-6 and not 1e-8: another split may choose another packing, and some norms are computed in float32.
    assert float((parts - whole).norm() / whole.norm()) < 1e-6
    assert other["logp"][0] == pytest.approx(metrics["logp"][0], rel=1e-9)
    assert other["logp"][1] == metrics["logp"][1]
    for place, k in enumerate(order):
        for a, b in zip(moved[place]["logp"], notes[k]["logp"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 60, 200, 10_000])
def test_split_and_order_of_equal_rows_agree_to_rounding(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With plain rows nothing but the order of sums changes: float64 <= 1e-8."""
    engine = make_engine("gpt2", dtype="float64")
    engine.network.packs = False
    groups = rollouts(engine, prompts=5, samples=4, tokens=12)
    whole = gradients(engine, groups, policy_gradient())[0]
    limited(engine, tokens)
    parts = gradients(engine, groups[::-1], policy_gradient())[0]
    assert float((parts - whole).norm() / whole.norm()) < 1e-8


def test_single_precision_stays_within_1e5_of_the_summed_group_gradients() -> None:
    engine = make_engine("llama", rows_tokens=10_000)
    groups = rollouts(engine, prompts=6, samples=4, tokens=12)
    whole = gradients(engine, groups, policy_gradient())[0]
    limited(engine, 70)
    parts = gradients(engine, groups, policy_gradient())[0]
    totals = count(groups)
    norms = 0.0
    for group in groups:
        engine.backward([group], policy_gradient(), totals)
        norms += float(torch.cat([p.grad.flatten() for p in engine.trained.values() if p.grad is not None]).norm())
        engine.discard()
    assert float((parts - whole).norm()) <= 1e-5 * norms


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"entropy", "logsumexp", "head:value"})])
@pytest.mark.parametrize("scope", ["batch", "group"])
def test_two_passes_equal_one(exact: Any, groups: Any, needs: frozenset[str], scope: str) -> None:
    chosen = groups if scope == "batch" else groups[:1]
    limited(exact, 10_000)
    one, metrics, notes = gradients(exact, chosen, contrast(needs, scope))
    assert "two_pass_gap" not in metrics
    limited(exact, 60)
    two, metrics, other = gradients(exact, chosen, contrast(needs, scope))
    assert metrics["two_pass_gap"][0] == 0.0
    scale = max(float(one.norm()), 1e-3)
    assert float((two - one).norm() / scale) < 1e-6
    np.testing.assert_allclose(other[0]["logp"][1], notes[0]["logp"][1], atol=1e-6)


def test_a_batch_objective_cannot_be_had_from_parts(exact: Any, groups: Any) -> None:
    """The test above would fail were the batch split as a response-scoped one is."""
    limited(exact, 10_000)
    one = gradients(exact, groups, contrast())[0]
    limited(exact, 60)
    wrong = gradients(exact, groups, contrast(scope="response"))[0]
    assert float((wrong - one).norm()) > 1e-3


def test_gradient_equals_that_of_the_models_own_logits(exact: Any, groups: Any) -> None:
    limited(exact, 10_000)
    got = gradients(exact, groups, policy_gradient())[0]
    model, loss = exact.network.model, 0.0
    for group in groups:
        for response, advantage in zip(group.responses, group.notes["advantage"].values[0], strict=True):
            ids = torch.tensor([[*group.prompt.ids, *response.ids]])
            logp = torch.log_softmax(model(input_ids=ids).logits[0, len(group.prompt.ids) - 1 : -1], -1)
            loss = loss - advantage * logp[torch.arange(len(response.ids)), torch.tensor(response.ids)].mean()
    (loss / count(groups).responses).backward()
    wanted = torch.cat([p.grad.flatten() for p in exact.trained.values() if p.grad is not None])
    exact.discard()
    assert float((got - wanted).norm() / wanted.norm()) < 1e-6


def test_zero_advantage_gives_zero_gradient(exact: Any, groups: Any) -> None:
    idle = [replace(g, notes={"advantage": Note("response", (np.zeros(4),))}) for g in groups]
    assert float(gradients(exact, idle, policy_gradient())[0].norm()) == 0.0


@pytest.mark.parametrize("tokens", [60, 10_000])
@pytest.mark.parametrize("scope", ["response", "group", "batch"])
def test_log_ratio_to_the_start_is_exactly_zero(tokens: int, scope: str) -> None:
    engine = make_engine("llama", keep=["start"], rows_tokens=tokens)
    groups = rollouts(engine)
    start = engine.outputs(groups, ["logp", "entropy"], "start")
    _, notes = engine.backward(groups, policy_gradient(scope), count(groups))
    for a, b in zip(start, notes, strict=True):
        for x, y in zip(a["logp"], b["logp"], strict=True):
            assert (x == y).all()


def test_untrained_tokens_have_no_log_prob_and_no_gradient(exact: Any, groups: Any) -> None:
    response = groups[0].responses[0]
    trained = response.trained.copy()
    trained[::2] = False
    masked = replace(groups[0], responses=(replace(response, trained=trained), *groups[0].responses[1:]))
    limited(exact, 10_000)
    notes = gradients(exact, [masked], policy_gradient())[2]
    full = gradients(exact, groups[:1], policy_gradient())[2]
    assert (notes[0]["logp"][0][::2] == 0).all()
    np.testing.assert_allclose(notes[0]["logp"][0][trained], full[0]["logp"][0][trained], atol=1e-6)


def test_a_response_without_trained_tokens_and_an_empty_step(exact: Any, groups: Any) -> None:
    nothing = replace(groups[0].responses[0], trained=np.zeros(len(groups[0].responses[0].ids), dtype=bool))
    group = replace(groups[0], responses=(nothing, *groups[0].responses[1:]))
    notes = gradients(exact, [group], policy_gradient())[2]
    assert (notes[0]["logp"][0] == 0).all() and (notes[0]["logp"][1] != 0).all()
    assert exact.backward([], policy_gradient(), count([])) == ({}, [])


def test_temperature_is_part_of_the_policy(exact: Any) -> None:
    limited(exact, 10_000)
    groups = rollouts(exact, prompts=2, temperature=0.5)
    metrics = gradients(exact, groups, policy_gradient())[1]
    assert metrics["mismatch_max"][0] < 1e-4
    hot = [replace(g, responses=tuple(replace(r, temperature=1.0) for r in g.responses)) for g in groups]
    assert gradients(exact, hot, policy_gradient())[1]["mismatch"][0] > 0.1


def test_mismatch_covers_present_samples_only(exact: Any, groups: Any) -> None:
    stale = [replace(g, responses=tuple(replace(r, version=7) for r in g.responses)) for g in groups]
    assert "mismatch" not in gradients(exact, stale, policy_gradient())[1]
    total, n = gradients(exact, groups, policy_gradient())[1]["mismatch"]
    assert n == count(groups).tokens and total / n < 1e-5


def test_entropy_is_that_of_the_distribution(exact: Any, groups: Any) -> None:
    limited(exact, 10_000)
    found = exact.outputs(groups[:1], ["entropy"])[0]["entropy"][0]
    ids = torch.tensor([[*groups[0].prompt.ids, *groups[0].responses[0].ids]])
    with torch.no_grad():
        logits = exact.network.model(input_ids=ids).logits[0, len(groups[0].prompt.ids) - 1 : -1]
    wanted = torch.distributions.Categorical(logits=logits).entropy().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_logsumexp_is_that_of_the_heads_logits_over_the_temperature(exact: Any, groups: Any) -> None:
    """Beside the entropy, in chunks or not, and not of normalised logits (which would be 0)."""
    limited(exact, 10_000)
    warm = replace(groups[0], responses=tuple(replace(r, temperature=0.7) for r in groups[0].responses))
    found = exact.outputs([warm], ["entropy", "logsumexp", "logp"])[0]
    ids = torch.tensor([[*warm.prompt.ids, *warm.responses[0].ids]])
    with torch.no_grad():
        logits = exact.network.model(input_ids=ids).logits[0, len(warm.prompt.ids) - 1 : -1].double() / 0.7
    wanted = logits.logsumexp(-1)
    np.testing.assert_allclose(found["logsumexp"][0], wanted.numpy(), atol=1e-6)
    chosen = logits[torch.arange(len(wanted)), torch.tensor(warm.responses[0].ids)]
    np.testing.assert_allclose(found["logp"][0], (chosen - wanted).numpy(), atol=1e-6)
    assert abs(wanted).max() > 0.1


def test_chunks_of_the_head_do_not_matter(exact: Any, groups: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(exact, 10_000)
    whole = gradients(exact, groups, policy_gradient())[0]
    monkeypatch.setattr("equipoise.engine.local.network.CHUNK", 1)  # the smallest chunks: 16 tokens
    assert float((gradients(exact, groups, policy_gradient())[0] - whole).norm() / whole.norm()) < 1e-12


def test_recomputed_activations_give_the_same_gradient() -> None:
    plain, saving = (make_engine("llama", checkpointing=c) for c in (False, True))
    assert plain.network.blocks and not saving.network.blocks
    plain.network.blocks = False
    groups = rollouts(plain)
    a, b = (gradients(e, groups, policy_gradient())[0] for e in (plain, saving))
    assert torch.equal(a, b)


def test_heads_start_at_zero_and_learn() -> None:
    engine = make_engine(heads={"value": 1})
    groups = rollouts(engine)
    assert all((v == 0).all() for n in engine.outputs(groups, ["head:value"]) for v in n["head:value"])
    objective = Objective(
        lambda out, b: Loss(b.per_group(b.per_response((out.heads["value"][:, 0] - 1) ** 2))),
        "", "", frozenset({"head:value"}),
    )  # fmt: skip
    for _ in range(60):
        engine.backward(groups, objective, count(groups))
        engine.step(3e-2)
    values = np.concatenate([v for n in engine.outputs(groups, ["head:value"]) for v in n["head:value"]])
    assert abs(values.mean() - 1) < 0.1


def test_a_projection_is_of_the_state_before_the_token_and_starts_as_its_seed_says() -> None:
    name = "embedding[6, random]"
    engine = make_engine(dtype="float64", heads=[name])
    groups = rollouts(engine, prompts=2, samples=2, tokens=5)
    read = engine.outputs(groups, [f"head:{name}"])
    w, b = (engine.trained[f"head:{name}.{x}"].detach() for x in ("weight", "bias"))
    assert w.shape == (6, 32) and 0.9 / 32**0.5 < float(w.abs().max()) <= 1 / 32**0.5 and bool(b.all())
    for g, found in zip(groups, read, strict=True):
        for r, z in zip(g.responses, found[f"head:{name}"], strict=True):
            row = torch.tensor([[*(g.prompt.ids or ()), *r.ids.tolist()]])
            with torch.no_grad():
                hidden = engine.network.model(row, output_hidden_states=True).hidden_states[-1][0]
            np.testing.assert_allclose(z, (hidden[len(g.prompt.ids or ()) - 1 : -1] @ w.T + b).numpy(), atol=1e-9)
    again, other = (make_engine(heads=["value", name], seed=0).trained, make_engine(heads=[name]).trained)
    assert torch.equal(again[f"head:{name}.weight"], other[f"head:{name}.weight"])
    assert not again["head:value.weight"].any()
    starts = [projection(32, 6, label, seed) for label, seed in ((name, 0), (name, 1), ("x[6, random]", 0))]
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_a_contrast_over_the_whole_step_is_the_same_in_any_split() -> None:
    """Every sample is every other's negative, also across micro-batches."""
    name = "embedding[6, random]"
    engine = make_engine(dtype="float64", heads=["value", name])
    groups = []
    for k, g in enumerate(rollouts(engine, prompts=3, samples=3, tokens=8)):
        places = tuple((np.arange(len(r.ids)) % 2).astype(float) for r in g.responses)
        given = np.random.default_rng(k).standard_normal((3, 6))
        notes = {"common": Note("token", places), "contrast": Note("response", (np.array([1.0, -1.0, 0.0]),))}
        groups.append(replace(g, notes={**g.notes, **notes, "demonstrated": Note("response", (given,))}))
    objective = near_demonstration("right", name) + near_demonstration("wrong", name)
    totals = count(groups, objective.totals)
    assert totals.extra == {"contrast_right": 3.0, "contrast_wrong": 3.0}
    found = []
    for tokens in (10_000, 60):
        limited(engine, tokens)
        engine.discard()
        metrics, _ = engine.backward(groups[:: 1 if tokens > 60 else -1], objective, totals)
        slopes = [p.grad.flatten() for p in engine.trained.values() if p.grad is not None]  # none for the output head
        found.append((torch.cat(slopes), metrics))
    (whole, one), (parts, two) = found
    assert float((parts - whole).norm() / whole.norm()) < 1e-6 and "two_pass_gap" in two and "two_pass_gap" not in one
    assert two["contrast_wrong"][0] == pytest.approx(one["contrast_wrong"][0], rel=1e-6)


def test_nan_loss_names_the_prompts_and_leaves_no_gradient(exact: Any, groups: Any) -> None:
    bad = [*groups[:2], replace(groups[2], notes={"advantage": Note("response", (np.full(4, np.nan),))})]
    with pytest.raises(Diverged, match="'p2'"):
        exact.backward(bad, policy_gradient(), count(bad))
    assert all(p.grad is None for p in exact.trained.values())


def test_infinite_gradient_stops_before_the_weights_change() -> None:
    engine = make_engine()
    before = {k: p.detach().clone() for k, p in engine.trained.items()}
    groups = rollouts(engine)
    engine.backward(groups, policy_gradient(), count(groups))
    next(iter(engine.trained.values())).grad.fill_(float("inf"))
    with pytest.raises(Diverged, match="step 1"):
        engine.step(1e-3)
    assert all(torch.equal(before[k], p) for k, p in engine.trained.items())


def test_step_clips_and_counts() -> None:
    engine = make_engine(optimiser=Optimiser(clip=0.5))
    groups = rollouts(engine)
    engine.backward(groups, policy_gradient(), count(groups))
    assert engine.step(1e-3)["grad_norm"] > 0.5
    assert engine.steps == 1
    assert rollouts(engine)[0].responses[0].version == 1


def test_unknown_names_are_told(exact: Any, groups: Any) -> None:
    with pytest.raises(UnknownName, match=r"policy is called 'strat'.*start"):
        exact.outputs(groups, ["logp"], "strat")
    with pytest.raises(UnknownName, match="head:value"):
        exact.outputs(groups, ["head:valu"])
    with pytest.raises(ArgumentError, match="no head is called 'q'"):
        exact.backward(groups, contrast(frozenset({"head:q"})), count(groups))


def test_policies_combine_linearly() -> None:
    engine = make_engine(keep=["start"])
    groups = rollouts(engine)
    engine.backward(groups, policy_gradient(), count(groups))
    engine.step(1e-2)
    engine.combine("average", {"start": 0.25, "current": 0.75})
    name, current = next(iter(engine.trained.items()))
    start, mixed = engine._policies["start"][name], engine._policies["average"][name]
    torch.testing.assert_close(mixed, 0.25 * start + 0.75 * current)
    moved = current.detach().clone()
    engine.combine("current", {"start": 1.0})
    assert torch.equal(current, start) and not torch.equal(current, moved)
