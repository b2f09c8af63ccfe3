"""Metrics of a step's groups: functions of what the rollouts record, so anyone can recompute them from the files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from equipoise.types import FAILED, Group
from equipoise.verify import failed


def describe(groups: Sequence[Group]) -> dict[str, float]:
    """Reward, lengths, parts, agreement of sampler and learner. Failed verdicts are counted, not averaged.

    reward_std: mean over groups of the population standard deviation. mismatch: mean and maximum over trained tokens of
    |sampler's log-prob - learner's|, nats, where the learner was run on them. Of responses drawn ahead of their step
    that is called drift, because the policy moved in between; staleness: by how many steps, mean and maximum."""
    found: dict[str, float] = {}
    responses = [r for g in groups for r in g.responses]
    if not responses:
        return found
    lengths = np.array([len(r.ids) for r in responses])
    found["completions/mean_length"] = float(lengths.mean())
    found["completions/clipped_ratio"] = float(np.mean([r.stop == "length" for r in responses]))
    return found | _scores(groups) | _mismatch(groups) | _staleness(groups)


def _scores(groups: Sequence[Group]) -> dict[str, float]:
    scored = [
        [s for r, s in zip(g.responses, g.scores, strict=False) if s.status not in FAILED and r.origin != "memory"]
        for g in groups
    ]  # what is remembered was counted when it was sampled
    scored = [s for s in scored if s]
    if not scored:
        return {}
    deviations = np.array([np.std([s.value for s in mine]) for mine in scored])
    every = [s for mine in scored for s in mine]
    found = {
        "reward": float(np.mean([s.value for s in every])),
        "reward_std": float(deviations.mean()),
        "frac_reward_zero_std": float(np.mean(deviations == 0)),
        "unparsed": float(np.mean([s.status == "unparsed" for s in every])),
        "failed": float(len(failed([s for g in groups for s in g.scores]))),
    }
    for name in sorted({name for s in every for name in s.parts}):
        found[f"rewards/{name}/mean"] = float(np.mean([s.parts[name] for s in every if name in s.parts]))
    return found


def _mismatch(groups: Sequence[Group]) -> dict[str, float]:
    gaps: dict[str, list[NDArray[np.float64]]] = {"mismatch": [], "drift": []}
    for g in groups:
        stale = "staleness" in g.notes and g.notes["staleness"].values[0].any()
        note = g.notes.get("old", g.notes.get("logp"))  # "old" is from before every update of the step
        for r, logp in zip(g.responses, note.values if note and "logp" in g.notes else (), strict=False):
            if r.logprobs is not None:
                gap = np.abs(np.asarray(r.logprobs, dtype=np.float64) - logp)[r.trained]
                gaps["drift" if stale else "mismatch"].append(gap)
    flat = {name: np.concatenate(mine) for name, mine in gaps.items() if sum(map(len, mine))}
    return {k: v for name, x in flat.items() for k, v in ((name, float(x.mean())), (f"{name}_max", float(x.max())))}


def _staleness(groups: Sequence[Group]) -> dict[str, float]:
    ages = [g.notes["staleness"].values[0] for g in groups if "staleness" in g.notes]
    flat = np.concatenate(ages) if ages else np.zeros(0)
    return {"staleness": float(flat.mean()), "staleness_max": float(flat.max())} if len(flat) else {}
