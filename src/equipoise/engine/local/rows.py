"""Rows for the learner: which responses share a micro-batch, and how they lie in it.

A row holds segments one after another; a segment sees its own earlier tokens and those of its parent:

    plain    one response with its prompt a row, padded on the right; causal, needs no mask
    packed   several such sequences a row, blind to each other (block-diagonal)
    shared   a prompt once, then several of its responses, which see it and not each other

Everything here is numpy and depends on lengths only, so equal groups give equal rows in every pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from equipoise.engine import flops
from equipoise.types import Group, ModelInfo, Note

PADDING = -2  # segment of padding; -1 is "no parent"


@dataclass(frozen=True)
class Piece:
    """A group, or the part of a large one that fits a micro-batch."""

    group: int  # its place in the list of groups
    responses: tuple[int, ...]  # those with trained tokens


@dataclass(frozen=True)
class Sequences:
    """The sequences of a micro-batch, in the order of its pieces."""

    prompts: tuple[NDArray[np.int64], ...]  # one [P] per response
    replies: tuple[NDArray[np.int64], ...]  # one [n] per response, up to its last trained token
    trained: tuple[NDArray[np.int64], ...]  # places of the trained tokens in each reply
    owner: tuple[int, ...]  # piece of each response

    def lengths(self) -> NDArray[np.int64]:
        """Tokens each response must see: the last trained token is predicted, never read. [R]"""
        return np.array([len(p) + len(r) - 1 for p, r in zip(self.prompts, self.replies, strict=True)], dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """B rows of L tokens. ``read`` and ``target`` are [T], in the order of the responses and their tokens."""

    layout: str  # "plain", "packed" or "shared"
    ids: NDArray[np.int64]  # [B, L]
    position: NDArray[np.int64]  # [B, L] restarts with every sequence; after a shared prompt it goes on
    segment: NDArray[np.int64]  # [B, L]
    parent: NDArray[np.int64]  # [B, L] segment also seen, or -1
    read: NDArray[np.int64]  # [T] flat place (row * L + column) of the token before the trained one
    target: NDArray[np.int64]  # [T] the trained token
    tokens: int  # without padding
    seen: int  # sum over tokens of the positions each attends to


def restrict(group: Group, keep: Sequence[int]) -> Group:
    """The group with only these responses, and their scores and notes."""

    def note(n: Note) -> Note:
        if n.level == "token":
            return replace(n, values=tuple(n.values[i] for i in keep))
        return n if n.level == "group" else replace(n, values=(n.values[0][list(keep)],))

    return Group(
        group.prompt,
        tuple(group.responses[i] for i in keep),
        tuple(group.scores[i] for i in keep) if group.scores else (),
        {name: note(n) for name, n in group.notes.items()},
    )


def partition(groups: Sequence[Group], limit: int, packs: bool, stretch: bool = False) -> list[list[Piece]]:
    """Micro-batches of at most ``limit`` tokens: of prompts read once and their responses, if the model ``packs``, and
    otherwise of rows that all have the longest one's length.

    Groups stay whole while they fit; a larger one is cut into micro-batches of its own. Groups of similar length
    go together, so that little is padded. ``stretch``: where a prompt is shared, up to twice its tokens also fit, so
    that no more than half of what is read are prompts read again.
    """
    whole: list[list[Piece]] = []
    cut: list[list[Piece]] = []
    sizes = [_spans(g) for g in groups]
    tokens = rows = longest = 0  # of the last micro-batch: laid out with prompts shared, or plain
    for k in sorted(range(len(groups)), key=lambda k: (-max(sizes[k].values(), default=0), k)):
        spans, prompt = sizes[k], len(groups[k].prompt.ids or ())
        if not spans:
            continue
        own, room = _tokens(prompt, list(spans.values()), packs), max(limit, 2 * prompt if stretch and packs else 0)
        if own > room:
            cut += [[piece] for piece in _cut(k, prompt, spans, room, packs)]
            continue
        longest = max(longest, max(spans.values()))
        if not whole or (tokens + own if packs else (rows + len(spans)) * longest) > limit:
            whole.append([])
            tokens, rows, longest = 0, 0, max(spans.values())
        whole[-1].append(Piece(k, tuple(spans)))
        tokens, rows = tokens + own, rows + len(spans)
    return whole + cut


def area(group: Group, packs: bool) -> int:
    """Tokens of a group as ``partition`` counts them."""
    return _tokens(len(group.prompt.ids or ()), list(_spans(group).values()), packs)


def _tokens(prompt: int, spans: Sequence[int], packs: bool) -> int:
    """Of responses to one prompt, which is read once, or with each of them in rows of equal length."""
    if not spans:
        return 0
    return prompt + sum(span - prompt for span in spans) if packs else len(spans) * max(spans)


def _spans(group: Group) -> dict[int, int]:
    """Tokens of prompt and response, for each response with trained tokens."""
    prompt = len(group.prompt.ids or ())
    return {i: prompt + len(r.ids) for i, r in enumerate(group.responses) if r.trained.any()}


def _cut(group: int, prompt: int, spans: dict[int, int], limit: int, packs: bool) -> Iterator[Piece]:
    rows: list[int] = []
    for i, _ in sorted(spans.items(), key=lambda item: (-item[1], item[0])):
        if rows and _tokens(prompt, [spans[j] for j in (*rows, i)], packs) > limit:
            yield Piece(group, tuple(sorted(rows)))
            rows = []
        rows.append(i)
    yield Piece(group, tuple(sorted(rows)))


def sequences(groups: Sequence[Group]) -> Sequences:
    """The sequences of whole (or restricted) groups, leaving out responses without trained tokens."""
    prompts, replies, trained, owner = [], [], [], []
    for k, group in enumerate(groups):
        prompt = np.asarray(group.prompt.ids, dtype=np.int64)
        for response in group.responses:
            places = np.flatnonzero(response.trained)
            if len(places):
                prompts.append(prompt)
                replies.append(np.asarray(response.ids[: places[-1] + 1], dtype=np.int64))
                trained.append(places)
                owner.append(k)
    return Sequences(tuple(prompts), tuple(replies), tuple(trained), tuple(owner))


DENSE = 1.0  # time of an attended pair under a dense mask, against the same work in a matrix product (CPU: 0.9)
CAUSAL = 0.4  # the same for causal rows, where half of the square is skipped (CPU: 0.2-0.4)


def arrange(seqs: Sequences, info: ModelInfo, packs: bool, blocks: bool = False) -> Rows:
    """The layout that a cost model expects to be fastest; plain if the model cannot pack. With attention by ``blocks``
    nothing is padded and nothing masked is computed, so all in one row, prompts shared, is the least work."""
    lengths = seqs.lengths()
    plain: list[list[tuple[int, ...]]] = [[(i,)] for i in range(len(lengths))]
    if not packs:
        return build(seqs, plain, "plain")
    if blocks:
        return build(seqs, [_items(seqs, len(lengths))], "shared", apart=True)
    best, chosen, name = _price(info, len(plain), int(lengths.max()), CAUSAL), plain, "plain"
    for width in _widths(seqs):
        items = _items(seqs, width)
        sizes = [_size(seqs, item) for item in items]
        bins = [[items[i] for i in b] for b in _fill(sizes)]
        price = _price(info, len(bins), max(sizes), DENSE)
        if price < best:
            best, chosen, name = price, bins, "packed" if width == 1 else "shared"
    return build(seqs, chosen, name)


def _price(info: ModelInfo, rows: int, length: int, attention: float) -> float:
    return rows * (flops.forward(info, length, 0, 0) + attention * flops.forward(info, 0, length * length, 0))


def _widths(seqs: Sequences) -> list[int]:
    """How many responses may share a prompt: 1 (block-diagonal), 2, 4, ... up to the largest group."""
    largest = int(np.bincount(seqs.owner).max())
    widths = [1]
    while widths[-1] < largest:
        widths.append(min(2 * widths[-1], largest))
    return widths


def _items(seqs: Sequences, width: int) -> list[tuple[int, ...]]:
    """Responses in runs of at most ``width`` that share a prompt."""
    items: list[tuple[int, ...]] = []
    for i, owner in enumerate(seqs.owner):
        if items and len(items[-1]) < width and seqs.owner[items[-1][0]] == owner:
            items[-1] = (*items[-1], i)
        else:
            items.append((i,))
    return items


def _size(seqs: Sequences, item: tuple[int, ...]) -> int:
    return len(seqs.prompts[item[0]]) + sum(len(seqs.replies[i]) - 1 for i in item)


def _fill(sizes: Sequence[int]) -> list[list[int]]:
    """First-fit decreasing into bins as large as the largest item."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((b for b, free in enumerate(room) if free >= sizes[i]), None)
        if place is None:
            bins.append([])
            room.append(max(sizes))
            place = len(bins) - 1
        bins[place].append(i)
        room[place] -= sizes[i]
    return bins


@dataclass(frozen=True)
class Run:
    """A segment, before it has a place."""

    ids: NDArray[np.int64]
    offset: int  # position of its first token
    number: int
    parent: int  # number of its prompt's segment; -1 for a prompt
    response: int | None
    turn: int  # where in a row whose prompts and responses lie apart


def _runs(seqs: Sequences, row: Sequence[tuple[int, ...]]) -> list[Run]:
    """Each item's prompt, followed by its responses. A response that shares its prompt with no other stays beside it
    in either order."""
    runs: list[Run] = []
    for item in row:
        prompt, root, turns = seqs.prompts[item[0]], len(runs), (1, 2) if len(item) > 1 else (0, 0)
        runs.append(Run(prompt, 0, root, -1, None, turns[0]))
        replies = [(seqs.replies[i][:-1], i) for i in item]
        runs += [Run(ids, len(prompt), root + 1 + k, root, i, turns[1]) for k, (ids, i) in enumerate(replies)]
    return runs


def build(seqs: Sequences, bins: Sequence[Sequence[tuple[int, ...]]], layout: str, apart: bool = False) -> Rows:
    """Lay items (responses that share one copy of their prompt) out in rows, one row a bin. ``apart``: the prompts of
    a row come first, so that responses of equal length lie at equal distances."""
    length = max(max(sum(_size(seqs, item) for item in row) for row in bins), 1)
    ids = np.zeros((len(bins), length), dtype=np.int64)
    position = np.zeros_like(ids)
    segment = np.full_like(ids, PADDING)
    parent = np.full_like(ids, -1)
    read: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * len(seqs.owner)
    tokens = seen = 0
    for b, row in enumerate(bins):
        runs, column = _runs(seqs, row), b * length
        last: dict[int, int] = {}  # place of a prompt's last token
        for run in sorted(runs, key=lambda run: run.turn) if apart else runs:
            end = column + len(run.ids)
            ids.flat[column:end], position.flat[column:end] = run.ids, np.arange(run.offset, run.offset + len(run.ids))
            segment.flat[column:end], parent.flat[column:end] = run.number, run.parent
            if run.response is None:
                last[run.number] = end - 1
            else:
                places = seqs.trained[run.response]
                read[run.response] = np.where(places == 0, last[run.parent], column + places - 1)
            tokens += len(run.ids)
            seen += flops.causal(len(run.ids), run.offset)
            column = end
    target = [r[t] for r, t in zip(seqs.replies, seqs.trained, strict=True)]
    return Rows(layout, ids, position, segment, parent, np.concatenate(read), np.concatenate(target), tokens, seen)
