"""Rewards from what comes after a response: another pass over a prompt that was made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from equipoise.errors import ArgumentError
from equipoise.parts.checks import positive, require
from equipoise.parts.signals.verifier import judge, silenced
from equipoise.parts.sources.starts import Start, branch
from equipoise.protocols import Context, Engine, Part, State
from equipoise.types import FAILED, Decoder, Group, Prompt, Response, Score, Task

Rewrite = Callable[[Prompt, str], Prompt]  # a prompt and the text of a response to it -> the next pass's prompt


def appended(template: str) -> Rewrite:
    """The prompt, then ``template`` with the response's text for ``{}``, on a line of its own."""
    if template.count("{}") != 1:
        raise ArgumentError(f"template {template!r}: expected one {{}}, where the response's text goes")

    def rewrite(prompt: Prompt, text: str) -> Prompt:
        more = template.replace("{}", text)
        if prompt.text is not None:
            return replace(prompt, text=f"{prompt.text}\n{more}", ids=None)
        *before, last = prompt.messages
        return replace(prompt, messages=(*before, {**last, "content": f"{last['content']}\n{more}"}), ids=None)

    return rewrite


def continued(
    task: Task,
    rewrite: Rewrite | None,
    samples: int,
    passes: int = 1,
    *,
    policy: str = "current",
    temperature: float = 1.0,
    direct: bool = True,
) -> Part:
    """r_i = mean verdict over ``samples`` chains of ``passes`` further responses, each to the prompt that ``rewrite``
    makes of the question and the response before; the last ones are judged. Nothing of them is trained. ``rewrite``
    None: the one pass goes on where the response stopped, and the whole reply is judged, truncated if it is too long.

    ``policy``: who answers. ``direct`` False: a response that is right by itself earns 0. The score is right where most
    chains are; its part "itself" is the verdict on the response. Groups whose chains do not fit the budget are dropped.
    """
    positive(samples=samples, passes=passes)
    require(task, "a verifier", task.verify, "a second pass")
    if rewrite is None and passes > 1:
        raise ArgumentError(f"passes={passes}: a reply is completed once; give a rewrite to ask again")
    decoder = Decoder(task.max_new_tokens, temperature)

    def chains(ctx: Context, groups: Sequence[Group]) -> list[tuple[Group, ...]]:
        """Of each group, as far as they fit: one group of final responses for each of its responses."""
        ends = [(g, r) for g in groups for r in g.responses]
        made: list[Group] = []
        for k in range(passes):
            starts = [_next(ctx.engine, rewrite, g.prompt, r) for g, r in ends]
            made = branch(ctx, starts, samples if k == 0 else 1, decoder, f"pass {k + 2}", policy)
            ends = [(g, r) for (g, _), m in zip(ends, made, strict=False) for r in m.responses]
        lasts = [_cut(r, task.max_new_tokens) for m in made for r in m.responses]
        whole = len(lasts) // samples
        finals = [tuple(lasts[i * samples : (i + 1) * samples]) for i in range(whole)]
        grouped, start = [], 0
        for g in groups:
            mine = finals[start : start + len(g.responses)]
            start += len(g.responses)
            if len(mine) == len(g.responses):
                grouped.append(tuple(Group(g.prompt, rs) for rs in mine))
        return grouped

    def run(ctx: Context, groups: list[Group], state: State) -> tuple[list[Group], State]:
        found = chains(ctx, groups)
        ctx.dropped.extend(groups[len(found) :])
        final = iter(judge(task, [one for each in found for one in each]))
        after = []
        for g in judge(task, groups[: len(found)]):
            scores = [_score(s, next(final).scores, direct) for s in g.scores]
            live = [silenced(r) if s.status in FAILED else r for r, s in zip(g.responses, scores, strict=True)]
            after.append(replace(g, responses=tuple(live), scores=tuple(scores)))
        return after, state

    needs = frozenset({"responses"}) | (set() if policy == "current" else {f"policy:{policy}"})
    who = "" if policy == "current" else f" by {policy}"
    what = "completion" if rewrite is None else "pass"
    name = f"continued({samples} x {passes} {what}{'es' * (passes > 1)}{who})"
    sizes = {"further": samples * passes}
    return Part(name, run, needs, frozenset({"scores"}), frozenset({"generated_tokens"}), sizes)


def _next(engine: Engine, rewrite: Rewrite | None, prompt: Prompt, response: Response) -> Start:
    """Where the next pass begins: at a prompt of its own, or in the reply, whose end of turn is then taken back."""
    if rewrite is not None:
        return Start(engine.encode(rewrite(prompt, response.text)))
    return Start(prompt, tuple(response.ids[: len(response.ids) - (response.stop == "eos")].tolist()))


def _cut(response: Response, longest: int) -> Response:
    """A reply in two parts may be longer than any that is sampled whole: then it is truncated, as that would be."""
    return replace(response, stop="length") if len(response.ids) > longest else response


def _score(itself: Score, final: Sequence[Score], direct: bool) -> Score:
    live = [s for s in final if s.status not in FAILED]
    if not live or itself.status in FAILED:
        return itself if itself.status in FAILED else final[0]
    value = float(np.mean([s.value for s in live]))
    if not direct and itself.status == "right":
        value = 0.0
    right = 2 * sum(s.status == "right" for s in live) > len(live) and value > 0
    parts = {**itself.parts, "itself": itself.value}
    return Score(value, "right" if right else "wrong", parts=parts, answer=itself.answer)
