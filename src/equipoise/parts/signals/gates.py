"""Gates: a right response keeps its reward only if others approve of it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.signals.verifier import silenced
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Cost, Group, Prompt, Response, Score

Asked = tuple[Prompt, Response, Score]
QUESTION = (
    "Someone asked:\n{request}\n\nThe answer was:\n{reply}\n\n"
    "Does the answer do what was asked? It may be terse or odd in form. Say yes or no."
)


@dataclass(frozen=True)
class Check:
    """``approve``: one verdict on each response, "right" if approved; fewer where the budget allows no more."""

    name: str
    approve: Callable[[Context, Sequence[Asked]], list[Score]]
    needs: frozenset[str] = frozenset()


def by_part(name: str) -> Check:
    """Approved where the part ``name`` of the score is above 0. Raises ArgumentError where the score has none."""

    def approve(ctx: Context, asked: Sequence[Asked]) -> list[Score]:
        for prompt, _, score in asked:
            if name not in score.parts:
                have = ", ".join(score.parts) or "none"
                raise ArgumentError(
                    f"the check {name!r} is a part of the verifier's score, and the verdict on prompt {prompt.id!r} "
                    f"has no such part; it has {have}. Name one of them, or your own module:function, or start"
                )
        return [_verdict(s.parts[name] > 0) for _, _, s in asked]

    return Check(name, approve)


def by_function(name: str, verify: Callable[[Sequence[Prompt], Sequence[str]], list[Score]]) -> Check:
    """Approved where ``verify`` of the prompts and the replies' texts, as of a task, says right."""
    return Check(name, lambda ctx, asked: verify([p for p, _, _ in asked], [r.text for _, r, _ in asked]))


def by_policy(
    policy: str, question: str = QUESTION, column: str = "request", words: tuple[str, str] = ("yes", "no")
) -> Check:
    """Approved where a policy, asked the ``question``, gives the first of two words a higher log-probability than the
    other. {reply} is the response's text, {request} the prompt's column, without its constraints; the prompt itself
    where it has none. Both words are read for every response asked about, and charged."""
    if question.count("{reply}") != 1 or question.count("{request}") > 1:
        raise ArgumentError(f"question {question!r}: expected one {{reply}} in it, and at most one {{request}}")

    def put(prompt: Prompt, response: Response) -> Prompt:
        said = prompt.text if prompt.text is not None else str(prompt.messages[-1]["content"])
        request = str(prompt.meta.get(column, said))
        text = "".join(_filled(question, {"{request}": request, "{reply}": response.text}))
        name = f"{prompt.id}?"
        return (
            Prompt(name, text=text) if prompt.text is not None else Prompt(name, ({"role": "user", "content": text},))
        )

    def approve(ctx: Context, asked: Sequence[Asked]) -> list[Score]:
        groups, bounds = [], list[Cost]()
        for prompt, response, _ in asked:
            at = ctx.engine.encode(put(prompt, response))
            answers = tuple(ctx.engine.encode_reply(at, word, "judge") for word in words)
            groups.append(Group(at, answers))
            bounds.append(ctx.engine.bound(len(at.ids or ()), 2, max(len(a.ids) for a in answers), False, 1, 0))
        fits = ctx.reserve(bounds) if bounds else 0
        found = ctx.engine.outputs(groups[:fits], ["logp"], policy) if fits else []
        sums = [[float(np.sum(x)) for x in notes["logp"]] for notes in found]
        return [_verdict(yes > no) for yes, no in sums]

    return Check(f"asked of {policy}", approve, frozenset() if policy == "current" else frozenset({f"policy:{policy}"}))


def _filled(text: str, values: dict[str, str]) -> list[str]:
    """The text with each key's first place taken by its value, which is not looked into for keys."""
    for key, value in values.items():
        if key in text:
            before, _, after = text.partition(key)
            return [*_filled(before, values), value, *_filled(after, values)]
    return [text]


def _verdict(approved: bool) -> Score:
    return Score(float(approved), "right" if approved else "wrong")


def gated(*checks: Check, truncated: float = 0.0) -> Part:
    """A right response stays right if every check approves, asked in order until one does not; else it is wrong, with
    reward 0. ``truncated``: reward of a response that reached the longest length. The parts "verified" and
    "refused" keep the verdict, and which right responses a check did not approve. A failed check fails the verdict;
    groups that a check could not be paid for are dropped. 2508.04632."""

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        scores = [[_opened(r, s, truncated) for r, s in zip(g.responses, g.scores, strict=True)] for g in groups]
        for check in checks:
            groups, scores = _through(ctx, check, groups, scores)
        return [_rescored(g, mine) for g, mine in zip(groups, scores, strict=True)], state

    name = " and ".join(c.name for c in checks) or "nothing more"
    cut = f"; truncated {truncated:g}" if truncated else ""
    needs = frozenset({"scores"}).union(*(c.needs for c in checks))
    return Part(f"gated({name}{cut})", run, needs, frozenset({"scores"}))


def _opened(response: Response, score: Score, truncated: float) -> Score:
    if score.status in FAILED:
        return score
    cut = response.stop == "length"
    parts = {**score.parts, "verified": score.value, "refused": 0.0}
    return replace(score, value=truncated if cut else score.value, status="wrong" if cut else score.status, parts=parts)


def _through(
    ctx: Context, check: Check, groups: Sequence[Group], scores: Sequence[list[Score]]
) -> tuple[list[Group], list[list[Score]]]:
    """Groups and scores after one check; those that it could not be paid for are dropped."""
    asked = [(i, k) for i, mine in enumerate(scores) for k, s in enumerate(mine) if s.status == "right"]
    found = check.approve(ctx, [(groups[i].prompt, groups[i].responses[k], scores[i][k]) for i, k in asked])
    after = [list(mine) for mine in scores]
    for (i, k), said in zip(asked, found, strict=False):
        after[i][k] = _passed(scores[i][k], said)
    unpaid = {i for i, _ in asked[len(found) :]}
    ctx.dropped.extend(_rescored(g, after[i]) for i, g in enumerate(groups) if i in unpaid)
    kept = [i for i in range(len(groups)) if i not in unpaid]
    return [groups[i] for i in kept], [after[i] for i in kept]


def _passed(score: Score, said: Score) -> Score:
    if said.status in FAILED:
        return replace(score, value=0.0, status=said.status, message=said.message, parts={**score.parts, **said.parts})
    if said.status == "right":
        return score
    return replace(score, value=0.0, status="wrong", parts={**score.parts, "refused": 1.0})


def _rescored(group: Group, scores: Sequence[Score]) -> Group:
    kept = [silenced(r) if s.status in FAILED else r for r, s in zip(group.responses, scores, strict=True)]
    return replace(group, responses=tuple(kept), scores=tuple(scores))
