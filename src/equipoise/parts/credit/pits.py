"""Which step of a wrong response lost the most, and what could have been said instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive, require
from equipoise.parts.signals.verifier import judge
from equipoise.parts.sources.prefixes import boundaries
from equipoise.parts.sources.starts import Start, branch, extended
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import Decoder, Group, Response, Score, Task


@dataclass(frozen=True)
class Path:
    """A wrong response of a group and the places where it is cut into steps: [0, ..], in tokens."""

    group: Group
    wrong: int
    places: tuple[int, ...]

    @property
    def response(self) -> Response:
        return self.group.responses[self.wrong]


def first_pits(task: Task, parts: int, rollouts: int) -> Part:
    """Pairs from groups with right and wrong responses, of which the first wrong one is cut into at most ``parts`` + 1
    steps. Q of a prefix: mean verdict of ``rollouts`` continuations by the current policy; of the question that of the
    group itself; of the whole 0. The step of least Q(after) - Q(before), the first of equals, is rejected; preferred is
    as much of a right continuation from the same prefix, which belongs to the pair's prompt. The groups themselves are
    recorded and dropped. 2406.14532."""
    positive(rollouts=rollouts)
    require(task, "a verifier", task.verify, "values of steps")
    if parts < 0:
        raise ArgumentError(f"parts={parts}: cuts of a wrong response; expected 0 (compare whole responses) or more")

    def path(engine: Engine, g: Group) -> Path | None:
        wrong = [i for i, s in enumerate(g.scores) if s.status in ("wrong", "unparsed")]
        if not wrong or not any(s.status == "right" for s in g.scores):
            return None
        cuts = [0, *boundaries(engine, g.responses[wrong[0]])]
        chosen = {cuts[k * (len(cuts) - 1) // parts] for k in range(parts + 1)} if parts else {0}
        return Path(g, wrong[0], tuple(sorted(chosen)))

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        paths = [p for p in (path(ctx.engine, g) for g in groups) if p is not None]
        starts = [Start(p.group.prompt, tuple(p.response.ids[:c].tolist())) for p in paths for c in p.places[1:]]
        tried = judge(task, branch(ctx, starts, rollouts, Decoder(task.max_new_tokens), "values"))
        ctx.dropped.extend(groups)
        made, first = [], 0
        for p in paths:
            mine = tried[first : first + len(p.places) - 1]
            first += len(p.places) - 1
            if len(mine) == len(p.places) - 1:  # else the budget ended
                made.append(_pair(ctx.engine, p, [p.group, *mine]))
        return [g for g in made if g is not None], state

    gives, spends = frozenset({"pairs"}), frozenset({"generated_tokens"})
    name, sizes = f"first_pits({parts} cuts, {rollouts} rollouts)", {"tried": parts * rollouts}
    return Part(name, run, frozenset({"scores"}), gives, spends, sizes)


def _pair(engine: Engine, p: Path, tried: Sequence[Group]) -> Group | None:
    """``tried``: scored responses that begin with each of the path's prefixes. None where no step loses anything, or
    nothing else was said."""
    q = [*(float(np.mean([s.value for s in g.scores])) for g in tried), 0.0]
    lost = np.diff(q)
    k = int(np.argmin(lost))
    if lost[k] >= 0:
        return None
    begin, end = p.places[k], ([*p.places, len(p.response.ids)])[k + 1]
    rejected = _piece(engine, p.response, begin, end)
    marks = boundaries(engine, p.response)
    count = sum(begin < m <= end for m in marks) if end < len(p.response.ids) else None
    parts = {"q": q[k], "lost": float(lost[k]), "step": float(k)}
    for r, s in zip(tried[k].responses, tried[k].scores, strict=True):
        if s.status == "right":
            chosen = _piece(engine, r, begin, _end(engine, r, begin, count))
            if not np.array_equal(chosen.ids, rejected.ids):
                prompt = extended(Start(p.group.prompt, tuple(p.response.ids[:begin].tolist())))
                scores = (Score(s.value, "right", parts=parts), Score(0.0, "wrong", parts=parts))
                return Group(prompt, (chosen, rejected), scores)
    return None


def _end(engine: Engine, response: Response, begin: int, count: int | None) -> int:
    """Where ``count`` steps after ``begin`` end; None: all of them."""
    later = [m for m in boundaries(engine, response) if m > begin]
    return len(response.ids) if count is None or len(later) < count else later[count - 1]


def _piece(engine: Engine, r: Response, begin: int, end: int) -> Response:
    """Tokens ``begin`` .. ``end`` of a response as one of their own, trained."""
    ids = r.ids[begin:end]
    return replace(
        r,
        ids=ids,
        logprobs=None if r.logprobs is None else r.logprobs[begin:end],
        trained=np.ones(len(ids), dtype=bool),
        segment=np.zeros(len(ids), dtype=np.int32),
        text=engine.decode(ids.tolist()),
        stop=r.stop if end == len(r.ids) else "sequence",
    )
