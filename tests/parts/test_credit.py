"""Credit: hand-computed numbers, and invariants over every credit from one list."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.errors import ArgumentError
from equipoise.parts import credit
from equipoise.protocols import Part, chain
from equipoise.types import Group, Score
from toy import group

CREDITS: dict[str, Part] = {
    "center": credit.center(),
    "leave_one_out": credit.leave_one_out(),
    "standardised": chain(credit.center(), credit.divide_by_std()),
}


def run(part: Part, groups: list[Group]) -> list[Group]:
    return part(None, groups, None)[0]  # type: ignore[arg-type] - these parts use no context


def advantages(part: Part, g: Group) -> list[float]:
    return run(part, [g])[0].notes["advantage"].values[0].tolist()


def test_numbers_by_hand() -> None:
    g = group([1.0, 0.0, 0.0, 1.0])
    assert advantages(CREDITS["center"], g) == [0.5, -0.5, -0.5, 0.5]
    assert advantages(CREDITS["leave_one_out"], g) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert advantages(CREDITS["standardised"], g) == pytest.approx([1, -1, -1, 1], rel=1e-5)


rewards = st.lists(st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 3)), min_size=1, max_size=8)


@pytest.mark.parametrize("name", CREDITS)
@given(rewards=rewards, shift=st.floats(-10, 10))
def test_sums_to_zero_and_ignores_a_shift(name: str, rewards: list[float], shift: float) -> None:
    a = advantages(CREDITS[name], group(rewards))
    assert sum(a) == pytest.approx(0.0, abs=1e-6)
    shifted = advantages(CREDITS[name], group([r + shift for r in rewards]))
    assert shifted == pytest.approx(a, abs=1e-3)


@pytest.mark.parametrize("name", CREDITS)
@given(value=st.floats(-1e6, 1e6), n=st.integers(1, 9))
def test_equal_rewards_give_exactly_zero(name: str, value: float, n: int) -> None:
    assert advantages(CREDITS[name], group([value] * n)) == [0.0] * n


@pytest.mark.parametrize("name", CREDITS)
def test_failed_verdicts_leave_the_statistics(name: str) -> None:
    g = group([1.0, 0.0, 0.0, 0.0])
    failed = dataclasses.replace(g, scores=(*g.scores[:3], Score(0.0, "timeout")))
    a = advantages(CREDITS[name], failed)
    assert a[:3] == advantages(CREDITS[name], group([1.0, 0.0, 0.0])) and a[3] == 0.0


def test_gae_with_no_values_is_reward_to_go_and_with_lam_zero_one_step() -> None:
    r, v = np.array([0.0, 0.0, 1.0]), np.array([0.2, 0.4, 0.7])
    np.testing.assert_allclose(credit.advantages(r, np.zeros(3), 1.0, 1.0), [1, 1, 1])
    np.testing.assert_allclose(credit.advantages(r, v, 1.0, 0.0), [0.2, 0.3, 0.3])
    # delta = (.2, .3, .3); A_1 = .3 + .5 * .3 = .45; A_0 = .2 + .5 * .45
    np.testing.assert_allclose(credit.advantages(r, v, 1.0, 0.5), [0.425, 0.45, 0.3])


def test_whitening_is_over_every_token_of_the_step() -> None:
    groups = run(credit.center(), [group([1.0, 0.0], [1, 3]), group([3.0, 0.0], [2, 2])])
    tokens = [
        dataclasses.replace(
            g,
            notes={
                "advantage": dataclasses.replace(
                    g.notes["advantage"],
                    level="token",
                    values=tuple(
                        np.full(len(r.ids), a) for r, a in zip(g.responses, g.notes["advantage"].values[0], strict=True)
                    ),
                )
            },
        )
        for g in groups
    ]
    flat = np.concatenate([v for g in run(credit.whiten(), tokens) for v in g.notes["advantage"].values])
    assert flat.mean() == pytest.approx(0, abs=1e-9) and flat.std() == pytest.approx(1, rel=1e-6)


def test_the_length_penalty_by_hand() -> None:
    g = run(credit.penalise_length(2, 6), [group([1.0, 1.0, 1.0, 0.0], [2, 4, 6, 8])])[0]
    assert [s.value for s in g.scores] == [1.0, 0.5, 0.0, -1.0]
    assert [s.status for s in g.scores] == ["right", "right", "right", "wrong"]
    with pytest.raises(ArgumentError, match="expected 0 <= free < limit"):
        credit.penalise_length(6, 6)


def test_keeping_mixed_groups_hands_on_what_it_drops() -> None:
    from equipoise.budget import Budget, Ledger
    from equipoise.keys import Key
    from equipoise.protocols import Context
    from equipoise.types import Cost
    from toy import engine

    policy = engine()
    ctx = Context(policy, Key((0,)), Ledger(Budget(flops=1.0)), lambda p, n, t, s: Cost())
    groups = [group([1.0, 1.0]), group([1.0, 0.0]), group([0.0, 0.0])]
    kept, _ = credit.keep_mixed()(ctx, groups, None)
    assert kept == [groups[1]] and ctx.dropped == [groups[0], groups[2]]


def test_keep_mixed_by_status_is_blind_to_grades() -> None:
    """NFT knows right and wrong: wrong answers of different grades are one kind, and right ones count as right."""
    ctx = dataclasses.make_dataclass("Ctx", ["dropped"])([])
    graded = dataclasses.replace(
        group([0.0, 0.0]), scores=(Score(0.2, "wrong"), Score(0.5, "wrong"))
    )  # differing rewards, nothing right
    mixed = dataclasses.replace(group([0.0, 0.0]), scores=(Score(0.7, "right"), Score(0.7, "wrong")))
    both = chain(credit.keep_mixed("status"), credit.pass_rate())
    (kept,), _ = both(ctx, [graded, mixed], None)
    assert ctx.dropped == [graded]
    assert kept.notes["pass_rate"].values[0].tolist() == [0.5, 0.5] and kept.notes["right"].values[0].tolist() == [1, 0]
    with pytest.raises(ArgumentError, match="'value' or 'status'"):
        credit.keep_mixed("reward")  # type: ignore[arg-type]
