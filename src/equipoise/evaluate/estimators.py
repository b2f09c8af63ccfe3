"""From scored rollouts to estimates with intervals. Items are the independent units; samples are clustered in them.

Conventions, the same for every metric:

- A truncated response (``stop == "length"``) is wrong: not right, reward 0, every score part 0, no vote. The part "kl",
  of adjusted decoders, is no verdict and stays.
- A score with status "timeout" or "error" is no verdict: the sample is left out and counted in ``failed``.
- Attempts of a conversation keep their own verdicts (parts "turn<k>/right", metrics turn<k>/...), also where a later
  one is truncated; pass@k and everything else is of the last attempt.
- An item contributes its mean over samples (or its unbiased pass@k, maj@k); the estimate is the mean over items.
- An item that cannot estimate a metric (fewer than k samples with a verdict, no such part) is left out of that metric,
  and a metric with fewer than two items is left out of the result.

Intervals. Per-item values that lie in [0, 1] get a Wilson interval (Wilson 1927) with an effective number of items
n / rho, where rho = s^2 / (p (1 - p)) says how far the items' variance falls short of the largest one that their mean
allows (it is 1 for one sample an item, less for several). rho is estimated with one pseudo-item at 0 and one at 1, so
that it tends to 1 where the data say nothing: among all-zero items the interval is that of n coin flips, not a point.
The quantile is Student's with n - 1 degrees of freedom. Other values (lengths, rewards outside [0, 1]) get Student's
interval over items. ``tests/test_evaluate.py`` simulates the coverage.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from equipoise.errors import ArgumentError
from equipoise.types import FAILED, Estimate, Group

Floats = NDArray[np.float64]
ATTEMPT = re.compile(r"turn(\d+)/right")  # a part of the score: whether that attempt is right, 0 or 1


@dataclass(frozen=True)
class Item:
    """One prompt's samples that have a verdict, N of them; ``drawn`` counts the failed ones too."""

    id: str
    right: NDArray[np.bool_]  # [N]
    value: Floats  # [N] reward, 0 where truncated
    length: Floats  # [N] generated tokens
    truncated: NDArray[np.bool_]  # [N]
    answers: tuple[str | None, ...]  # [N] canonical answers; None: none found, or truncated
    parts: Mapping[str, Floats] = field(default_factory=dict)  # name -> [N], 0 where truncated
    drawn: int = 0


def items_of(groups: Sequence[Group]) -> list[Item]:
    """One :class:`Item` per group, in order. Raises ArgumentError when a response has no score."""
    return [_item(group) for group in groups]


def _item(group: Group) -> Item:
    if len(group.scores) != len(group.responses):
        raise ArgumentError(
            f"prompt {group.prompt.id!r} has {len(group.responses)} responses and {len(group.scores)} scores; "
            "estimates need one score a response"
        )
    kept = [(r, s) for r, s in zip(group.responses, group.scores, strict=True) if s.status not in FAILED]
    cut = np.array([r.stop == "length" for r, _ in kept], dtype=bool)
    names = sorted({name for _, s in kept for name in s.parts})
    return Item(
        id=group.prompt.id,
        right=np.array([s.status == "right" for _, s in kept], dtype=bool) & ~cut,
        value=np.where(cut, 0.0, np.array([s.value for _, s in kept], dtype=np.float64)),
        length=np.array([int(r.trained.sum()) for r, _ in kept], dtype=np.float64),
        truncated=cut,
        answers=tuple(None if r.stop == "length" else s.answer for r, s in kept),
        parts={n: uncut(n, [s.parts.get(n, np.nan) for _, s in kept], cut) for n in names},
        drawn=len(group.responses),
    )


def uncut(part: str, values: Sequence[float], cut: NDArray[np.bool_]) -> Floats:
    """A part's values [N], 0 where the response was truncated."""
    return np.where(cut & (part != "kl" and not ATTEMPT.fullmatch(part)), 0.0, np.array(values, dtype=np.float64))


def pass_at_k(n: int, right: int, k: int) -> float:
    """Chance that one of ``k`` of ``n`` samples, drawn without replacement, is right when ``right`` of the n are.

    Unbiased for the chance that one of k fresh samples is (Chen et al. 2021, 2107.03374, in its product form).
    """
    if n - right < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float | None:
    """Chance that the most frequent answer among ``k`` of the samples, drawn without replacement, is right: exact.

    A tie is settled by a fair draw among the tied answers, and its expectation is counted. A sample without an
    answer abstains; k abstentions are wrong. An answer is as right as the share of its samples that are.
    None when there are fewer than k samples or none of them has an answer.
    """
    votes = Counter(a for a in answers if a is not None)
    if not votes or len(answers) < k:
        return None
    hits = Counter(a for a, ok in zip(answers, right, strict=True) if a is not None and ok)
    silent = len(answers) - votes.total()
    ways = sum(
        hits[a] / votes[a] * _ways_to_win(votes[a], [v for b, v in votes.items() if b != a], silent, k) for a in hits
    )
    return ways / comb(len(answers), k)


def _ways_to_win(own: int, others: Sequence[int], silent: int, k: int) -> float:
    """Subsets of size k in which an answer held by ``own`` samples wins, those tied with t others counting 1/(t+1).

    For each number of own votes, a polynomial over (votes of the others, how many of them tie), one factor an answer.
    """
    total = 0.0
    for mine in range(1, min(own, k) + 1):
        rest = k - mine
        ways = np.zeros((rest + 1, rest // mine + 1))  # [votes so far, answers tied so far]
        for v in range(min(silent, rest) + 1):
            ways[v, 0] = comb(silent, v)
        for other in others:
            new = ways.copy()
            for v in range(1, min(other, mine, rest) + 1):
                moved = comb(other, v) * ways[: rest + 1 - v]
                if v < mine:
                    new[v:] += moved
                else:
                    new[v:, 1:] += moved[:, :-1]
            ways = new
        total += comb(own, mine) * float(ways[rest] @ (1.0 / np.arange(1, ways.shape[1] + 1)))
    return total


def item_values(items: Sequence[Item], ks: Sequence[int] = (1,)) -> dict[str, Floats]:
    """Metric -> one value per item [items], NaN where the item has none.

    Names: pass@k, maj@k (for k > 1, where some item has a canonical answer), reward, length, truncated, parts/<name>;
    of conversations turn<k>/pass@1, turn<k>/delta, turn<k>/wrong_to_right, turn<k>/right_to_wrong;
    brier = mean (q - c)^2 where responses state a confidence q (the part "confidence") and c is 1 for right, else 0.
    Raises ArgumentError when some k exceeds the samples drawn of an item.
    """
    values: dict[str, list[float]] = {}
    for k in ks:
        _check_k(k, items)
        enough = [i if len(i.right) >= k else None for i in items]
        values[f"pass@{k}"] = [pass_at_k(len(i.right), int(i.right.sum()), k) if i else np.nan for i in enough]
        if k > 1 and any(i.answers.count(None) < len(i.answers) for i in items):
            votes = [maj_at_k(i.answers, list(i.right), k) if i else None for i in enough]
            # an item whose samples all abstain is wrong, not missing, once the task is known to have answers
            values[f"maj@{k}"] = [
                np.nan if i is None else 0.0 if v is None else v for i, v in zip(enough, votes, strict=True)
            ]
    values["reward"] = [_mean(i.value) for i in items]
    values["length"] = [_mean(i.length) for i in items]
    values["truncated"] = [_mean(i.truncated) for i in items]
    stated = [_stated(i) for i in items]
    if any(len(q) for q, _ in stated):
        values["brier"] = [_mean((q - c) ** 2) for q, c in stated]
    for name in sorted({name for i in items for name in i.parts if not ATTEMPT.fullmatch(name)}):
        values[f"parts/{name}"] = [_mean(i.parts.get(name, np.zeros(0))) for i in items]
    values |= _attempts(items)
    return {name: np.array(v, dtype=np.float64) for name, v in values.items()}


def _attempts(items: Sequence[Item]) -> dict[str, list[float]]:
    """turn<k>/pass@1; of later attempts against the first, delta (the difference), wrong_to_right and right_to_wrong
    (shares of all samples)."""
    names = {name for i in items for name in i.parts if ATTEMPT.fullmatch(name)}
    values: dict[str, list[float]] = {}
    for k in range(1, len(names) + 1):
        pairs = [tuple(i.parts.get(f"turn{j}/right", np.zeros(0)) for j in (1, k)) for i in items]
        values[f"turn{k}/pass@1"] = [_mean(now) for _, now in pairs]
        if k > 1:
            values[f"turn{k}/delta"] = [_mean(now - first) for first, now in pairs]
            values[f"turn{k}/wrong_to_right"] = [_mean(now * (1 - first)) for first, now in pairs]
            values[f"turn{k}/right_to_wrong"] = [_mean(first * (1 - now)) for first, now in pairs]
    return values


def _check_k(k: int, items: Sequence[Item]) -> None:
    fewest = min((i.drawn for i in items), default=0)
    if not 1 <= k <= fewest:
        raise ArgumentError(
            f"pass@{k} and maj@{k} need 1 <= k <= samples per item, and there are {fewest}; "
            f"draw at least {k} samples or ask for a smaller k"
        )


def _mean(x: NDArray[np.generic]) -> float:
    known = x[~np.isnan(x.astype(np.float64))]
    return float(known.astype(np.float64).mean()) if len(known) else float("nan")


def estimates(groups: Sequence[Group], ks: Sequence[int] = (1,)) -> dict[str, Estimate]:
    """The metrics of scored groups with 95% intervals; ``failed`` is a count of samples without a verdict.

    Raises ArgumentError when a response has no score, or when some k exceeds the samples of an item.
    """
    items = items_of(groups)
    values = item_values(items, ks)
    known = {name: x[~np.isnan(x)] for name, x in values.items()}
    found = {
        name: difference_interval(x) if name.endswith("/delta") else mean_interval(x)
        for name, x in known.items()
        if len(x) >= 2
    }
    found |= calibration(items)
    failed = float(sum(i.drawn - len(i.right) for i in items))
    return {**found, "failed": Estimate(failed, failed, failed)}


def _stated(item: Item) -> tuple[Floats, Floats]:
    """Confidences in [0, 1] and verdicts (1 right, 0 wrong) of the samples that state one; truncated ones do not."""
    q = item.parts.get("confidence", np.full(len(item.right), np.nan))
    kept = ~np.isnan(q) & ~item.truncated
    return q[kept], item.right[kept].astype(np.float64)


def calibration(items: Sequence[Item]) -> dict[str, Estimate]:
    """Of samples that state a confidence, pooled over items: ece and auroc (where there are right and wrong ones), and
    weighted_vote. Intervals: jackknife over items, with Student's quantile."""
    stated = [_stated(i) for i in items]
    if sum(len(q) > 0 for q, _ in stated) < 2:
        return {}
    found = {}
    for name, f in (("ece", ece), ("auroc", auroc)):
        one_out = [f(*_pool(stated[:i] + stated[i + 1 :])) for i in range(len(stated))]
        value = f(*_pool(stated))
        if not np.isnan([value, *one_out]).any():
            found[name] = jackknife_interval(value, np.array(one_out))
    votes = [weighted_vote(i) for i in items if len(i.right)]
    return found | ({"weighted_vote": mean_interval(np.array(votes))} if len(votes) >= 2 else {})


def _pool(stated: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    return np.concatenate([q for q, _ in stated]), np.concatenate([c for _, c in stated])


def ece(q: Floats, c: Floats, bins: int = 10) -> float:
    """Expected calibration error: sum over bins b of equal width of n_b / n |mean c - mean q|. Guo et al. 2017."""
    bin_of = np.minimum((q * bins + 1e-9).astype(int), bins - 1)
    gaps = [abs(float((c - q)[bin_of == b].sum())) for b in range(bins)]
    return sum(gaps) / len(q) if len(q) else float("nan")


def auroc(q: Floats, c: Floats) -> float:
    """Chance that a right sample states more than a wrong one, ties counting half. NaN without both."""
    right = int(c.sum())
    wrong = len(c) - right
    if not right or not wrong:
        return float("nan")
    ranks = stats.rankdata(q)
    return float((ranks[c == 1].sum() - right * (right + 1) / 2) / (right * wrong))


def weighted_vote(item: Item) -> float:
    """Whether the answer with the largest sum of confidences is right; a tie counts its expectation, no answer 0."""
    q = item.parts.get("confidence", np.zeros(len(item.right)))
    weights: dict[str, float] = {}
    for answer, weight in zip(item.answers, np.nan_to_num(q), strict=True):
        if answer is not None:
            weights[answer] = weights.get(answer, 0.0) + float(weight)
    top = [a for a, w in weights.items() if w == max(weights.values())]
    rates = [item.right[[b == a for b in item.answers]].mean() for a in top]
    return float(np.mean(rates)) if rates else 0.0


def jackknife_interval(value: float, one_out: Floats, level: float = 0.95) -> Estimate:
    """A statistic in [0, 1] with its values when one item each is left out ``[items]`` (Efron and Stein 1981)."""
    n = len(one_out)
    error = float(np.sqrt((n - 1) / n * np.square(one_out - one_out.mean()).sum()))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def mean_interval(x: Floats, level: float = 0.95) -> Estimate:
    """Mean of per-item values ``x [items]`` with its interval: :func:`share_interval` where all lie in [0, 1]."""
    if len(x) < 2:
        raise ArgumentError(f"an interval over items needs at least 2 items, got {len(x)}")
    if x.min() >= 0 and x.max() <= 1:
        return share_interval(x, level)
    mean, error = float(x.mean()), float(x.std(ddof=1) / np.sqrt(len(x)))
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def share_interval(x: Floats, level: float = 0.95) -> Estimate:
    """Wilson interval for the mean of per-item values in [0, 1], ``x [items]``, as the module's docstring says."""
    n, p = len(x), float(x.mean())
    centre = (x.sum() + 1) / (n + 2)
    spread = (np.square(x).sum() + 1) / (n + 2) - centre**2
    effective = n * centre * (1 - centre) / spread
    z2 = float(stats.t.ppf((1 + level) / 2, n - 1)) ** 2 / effective
    middle, half = p + z2 / 2, np.sqrt(z2 * (p * (1 - p) + z2 / 4))
    low, high = (middle - half) / (1 + z2), (middle + half) / (1 + z2)
    return Estimate(p, float(min(max(low, 0.0), p)), float(max(min(high, 1.0), p)))


def difference_interval(x: Floats, level: float = 0.95) -> Estimate:
    """For the mean of per-item differences of shares ``x [items]``, in [-1, 1]: :func:`share_interval`, stretched."""
    e = share_interval((x + 1) / 2, level)
    return Estimate(2 * e.value - 1, 2 * e.low - 1, 2 * e.high - 1)


def ratio_interval(total: Floats, size: Floats, level: float = 0.95) -> Estimate:
    """``sum(total) / sum(size)`` over items, both [items], with Student's interval of the linearised ratio."""
    if len(total) < 2:
        raise ArgumentError(f"an interval over items needs at least 2 items, got {len(total)}")
    n, ratio = len(total), float(total.sum() / size.sum())
    residual = (total - ratio * size) / size.mean()
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.sqrt(np.square(residual).sum() / (n - 1) / n))
    return Estimate(ratio, ratio - half, ratio + half)
