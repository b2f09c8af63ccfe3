"""Groups that an earlier stage has stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from equipoise.parts.checks import positive
from equipoise.parts.sources.draws import cost, take
from equipoise.protocols import Context, Part, State
from equipoise.types import FAILED, Group

Select = Callable[[Sequence[Group]], list[Group]]


def stored(name: str, select: Select, size: int, epochs: int, responses: int | None = None) -> Part:
    """``size`` of the groups that ``select`` makes of the store ``name`` each step; dry after ``epochs`` passes.
    ``responses``: most that a group has, if more than its objective compares."""
    positive(size=size, epochs=epochs)

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        start = state or 0
        chosen = select(ctx.stores.get(name, ()))
        end = min(start + size, epochs * len(chosen))
        batch = [chosen[i] for i in take(ctx, len(chosen), end - start, start)] if end > start else []
        fits = ctx.reserve([cost(ctx, g) for g in batch])
        return [*groups, *batch[:fits]], start + fits

    gives = frozenset({"prompts", "responses", "scores"})
    sizes = {"groups": size, "passes": epochs} | ({"responses": responses} if responses else {})
    return Part(f"stored({name}, {size})", run, gives=gives, sizes=sizes)


def whole_groups(mixed: bool = False) -> Select:
    """The groups as they were stored; with ``mixed`` those whose verdicts differ in value."""

    def select(groups: Sequence[Group]) -> list[Group]:
        scores = [{s.value for s in g.scores if s.status not in FAILED} for g in groups]
        return [g for g, mine in zip(groups, scores, strict=True) if len(mine) > mixed]

    return select


def right_answers(cap: int) -> Select:
    """Each distinct right response as a group of one, at most ``cap`` a prompt."""
    positive(cap=cap)

    def select(groups: Sequence[Group]) -> list[Group]:
        kept: dict[str, dict[tuple[int, ...], Group]] = {}
        for g in groups:
            mine = kept.setdefault(g.prompt.id, {})
            for r, s in zip(g.responses, g.scores, strict=True):
                if s.status == "right" and len(mine) < cap:
                    mine.setdefault(tuple(r.ids.tolist()), Group(g.prompt, (r,), (s,)))
        return [one for mine in kept.values() for one in mine.values()]

    return select


def right_wrong_pairs(cap: int) -> Select:
    """Pairs of a right and a wrong response to one prompt, right first; at most ``cap`` a group, none used twice."""
    positive(cap=cap)

    def select(groups: Sequence[Group]) -> list[Group]:
        made = []
        for g in groups:
            scored = list(zip(g.responses, g.scores, strict=True))
            right = [x for x in scored if x[1].status == "right"]
            wrong = [x for x in scored if x[1].status in ("wrong", "unparsed")]
            for (r, s), (q, z) in list(zip(right, wrong, strict=False))[:cap]:
                made.append(Group(g.prompt, (r, q), (s, z)))
        return made

    return select
