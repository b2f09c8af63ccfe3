"""The rows of each split, and what two splits or two rows must not share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import DataError
from equipoise.tasks.file.source import SPLITS, Source
from equipoise.tasks.progress import watched
from equipoise.tasks.splits import split_of
from equipoise.types import Prompt, Task

SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
LEAST = 20  # prompts held out in a split that is made by hash, or a tenth of a file with fewer than ten times as many


@dataclass(frozen=True)
class FileSplit(Sequence[Prompt]):
    """Rows of a file, read when looked at. ``change`` adapts the rows in ``changed`` to a model."""

    source: Source
    places: NDArray[np.int64]  # [n] rows of the file
    changed: frozenset[int] = frozenset()
    change: Callable[[Prompt], Prompt] | None = None

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(self.places[index])  # raises IndexError past the end, which ends an iteration
        prompt = self.source.prompt(row)
        return self.change(prompt) if self.change and row in self.changed else prompt


def source_of(task: Task) -> Source:
    """The indexed file behind a task's training split."""
    split = task.splits["train"]
    assert isinstance(split, FileSplit)
    return split.source


def split_rows(sources: list[Source], duplicates: str, has_test: bool) -> tuple[dict[str, FileSplit], list[str]]:
    """Rows of each split and notes for the summary. Raises DataError for duplicates."""
    main = sources[0]
    notes: list[str] = []
    places = main.places.copy()
    if has_test:
        places[places == 2] = -1
    _assign(main, places, has_test, notes)
    parts = [(main, places), *((s, np.full(len(s.rows), 2, dtype=np.int8)) for s in sources[1:])]
    keep = _distinct(parts, duplicates, notes)
    notes += [f"{n:,} rows labelled bad left out" for n in [sum(int((~s.used).sum()) for s in sources)] if n]
    splits = {}
    for place, name in enumerate(SPLITS):
        source, at = parts[-1] if place == 2 else parts[0]
        kept = keep[-1] if place == 2 else keep[0]
        splits[name] = FileSplit(source, np.flatnonzero((at == place) & kept))
    return splits, notes


def lacking(splits: Mapping[str, Sequence[Prompt]]) -> str | None:
    """Why these splits cannot be trained and tested on; None if none is empty."""
    empty = [name for name in SPLITS if not len(splits[name])]
    if not empty:
        return None
    rows = ", ".join(f"{len(splits[name]):,} {name}" for name in SPLITS)
    return (
        f"nothing is left for {', '.join(empty)} ({rows}). At least three distinct prompts are needed; add rows, fill "
        "a 'split' column, or give --task.test PATH"
    )


def _assign(source: Source, places: NDArray[np.int8], has_test: bool, notes: list[str]) -> None:
    """Give every row without a split one by the hash of its prompt; in place. A split the file names is left alone."""
    named_splits = {int(p) for p in np.unique(places) if p >= 0}
    open_rows_ = np.flatnonzero((places < 0) & source.used)
    wanted = [n for i, n in enumerate(SPLITS) if i == 0 or (i not in named_splits and not (i == 2 and has_test))]
    if named_splits and not len(open_rows_) and len(wanted) > 1:
        open_rows_ = np.flatnonzero((places == 0) & source.used)  # the file leaves a split out: it is taken from train
    if not len(open_rows_):
        return
    shares = {n: SHARES[n] for n in wanted}
    for row in watched(open_rows_, f"splitting {source.rows.path.name}", len(open_rows_)):
        places[row] = SPLITS.index(split_of(int(source.words[row]), shares))
    wider = _widen(source, places, open_rows_, [SPLITS.index(name) for name in wanted[1:]])
    more = "; a small file, so they hold more than 5%." if wider else ""
    notes.append(f"{' and '.join(wanted[1:]) or 'train'} by hash of the prompt{more}")


def _widen(source: Source, places: NDArray[np.int8], rows: NDArray[np.int64], held: Sequence[int]) -> bool:
    """Give each split in ``held`` at least ``LEAST`` prompts, or a tenth of a small file's: their shares of the hashes
    grow downwards, at the cost of train, which keeps one. In place; whether any had too few."""
    words, firsts, ranks = np.unique(source.words[rows], return_index=True, return_inverse=True)
    least = min(LEAST, -(-len(words) // 10))
    counts = [int((places[rows[firsts]] == place).sum()) for place in held]
    if min(counts, default=least) >= least:
        return False
    top = len(words)  # hashes ascend from train over validation to test
    for place, count in reversed([*zip(held, counts, strict=True)]):
        low = max(top - max(count, least), min(top, 1))
        places[rows[(low <= ranks) & (ranks < top)]] = place
        top = low
    return True


def _distinct(
    parts: list[tuple[Source, NDArray[np.int8]]], duplicates: str, notes: list[str]
) -> list[NDArray[np.bool_]]:
    """Which rows stay. A repetition is a row that says what an earlier one says; a leak is a prompt of the test or
    validation split that is trained on. Raises DataError where they are refused."""
    keep = [source.used.copy() for source, _ in parts]
    if duplicates == "keep":
        return keep
    found = [*_repeated(parts, keep), *_leaked(parts, keep)]
    if found and duplicates == "refuse":
        lines = [f"{count:,} {what}" for what, count in found]
        raise DataError(
            f"{parts[0][0].rows.path}: " + "\n".join(lines) + "\n"
            "fix: remove them, or --task.duplicates drop (keeps the first, and test before train) or keep (as it is)"
        )
    notes += [f"{count:,} dropped: {what}" for what, count in found]
    return keep


def _repeated(parts: list[tuple[Source, NDArray[np.int8]]], keep: list[NDArray[np.bool_]]) -> list[tuple[str, int]]:
    found = []
    for (source, _), kept in zip(parts, keep, strict=True):
        pairs = source.repetitions(source.whole)
        kept[[later for _, later in pairs]] = False
        if pairs:
            numbers = [f"{source.rows.number(b)} (as {source.rows.number(a)})" for a, b in pairs[:3]]
            what = "duplicate rows" if source.kinds["reply"] or source.kinds["pair"] else "duplicate prompts"
            found.append((f"{what}, case and spacing aside: {source.rows.unit} {', '.join(numbers)}", len(pairs)))
    return found


def _leaked(parts: list[tuple[Source, NDArray[np.int8]]], keep: list[NDArray[np.bool_]]) -> list[tuple[str, int]]:
    """Prompts shared by two splits stay in the later one: test before validation before train."""
    found = []
    for low, high in ((0, 1), (0, 2), (1, 2)):
        held = np.concatenate([s.words[(at == high) & k] for (s, at), k in zip(parts, keep, strict=True)])
        for (source, at), kept in zip(parts, keep, strict=True):
            shared = (at == low) & kept & np.isin(source.words, held)
            if shared.any():
                kept[shared] = False
                row = int(np.flatnonzero(shared)[0])
                where = f"{source.rows.unit} {source.rows.number(row)} of {source.rows.path.name}"
                what = f"rows of {SPLITS[low]} whose prompt is also in {SPLITS[high]}: {where}"
                found.append((what, int(shared.sum())))
    return found
