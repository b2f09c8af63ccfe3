"""What arms have in common, and what they do not."""

from __future__ import annotations

import numpy as np

from equipoise.trial.result import ArmRuns, _same_items

NONE = float("nan")


def test_a_metric_stays_with_the_arms_that_can_estimate_it() -> None:
    """The start model states no confidence, but for one item; what the others state is not lost for that."""
    items = ("a", "b", "c", "d")
    right = np.array([[1.0, 0.0, 1.0, 0.0]])
    one = ArmRuns("one", (0,), (), (), {"pass@1": right, "brier": np.array([[0.1, 0.2, NONE, 0.3]])}, items)
    two = ArmRuns("two", (0,), (), (), {"pass@1": right, "brier": np.array([[0.4, 0.5, 0.6, 0.7]])}, items)
    start = ArmRuns("start", (), (), (), {"pass@1": right, "brier": np.array([[0.9, NONE, NONE, NONE]])}, items)
    found = {arm.name: arm.metrics for arm in _same_items([one, two, start])}
    assert found["one"]["brier"].tolist() == [[0.1, 0.2, 0.3]]
    assert found["two"]["brier"].tolist() == [[0.4, 0.5, 0.7]]  # on the items that both can estimate
    assert "brier" not in found["start"] and all(m["pass@1"].shape == (1, 4) for m in found.values())
