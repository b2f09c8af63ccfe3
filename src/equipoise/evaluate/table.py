"""Evaluations as Parquet: one row a sample, enough to recompute every metric and to read what the model said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.errors import RecordError
from equipoise.evaluate.estimators import Item, uncut
from equipoise.types import FAILED, Group, Prompt

COLUMNS = ("item", "sample", "value", "status", "right", "length", "truncated", "prompt", "text", "answer", "parts")


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row a sample with COLUMNS. ``value`` is the reward after truncation (0 then), ``parts`` JSON, ``length`` in
    generated tokens, ``answer`` the canonical answer or None."""
    return [
        {
            "item": group.prompt.id,
            "sample": i,
            "value": 0.0 if response.stop == "length" else float(score.value),
            "status": score.status,
            "right": score.status == "right" and response.stop != "length",
            "length": int(response.trained.sum()),
            "truncated": response.stop == "length",
            "prompt": prompt_text(group.prompt),
            "text": response.text,
            "answer": score.answer,
            "parts": json.dumps(dict(score.parts)),
        }
        for group in groups
        for i, (response, score) in enumerate(zip(group.responses, group.scores, strict=True))
    ]


def prompt_text(prompt: Prompt) -> str:
    """The prompt as people read it: its text, or its turns, roles named unless there is only the user's."""
    if prompt.text is not None:
        return prompt.text
    if len(prompt.messages) == 1:
        return str(prompt.messages[0]["content"])
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages)


def write(groups: Sequence[Group], path: Path) -> None:
    """Write ``rows(groups)`` to ``path``, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"sample": pa.int64(), "value": pa.float64(), "length": pa.int64()}
    kinds |= {"right": pa.bool_(), "truncated": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(rows(groups), schema), partial)
    partial.replace(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation, in file order. Raises RecordError when the file is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"cannot read the evaluation {path}: {error}. Evaluate again, or resume the run") from error
    return found


def items_of_rows(table: Sequence[Mapping[str, Any]]) -> list[Item]:
    """The items of an evaluation, sorted by id; what ``estimators.items_of`` makes of the groups themselves."""
    ordered = sorted(table, key=lambda row: (row["item"], row["sample"]))
    return [_item(name, list(found)) for name, found in groupby(ordered, key=lambda row: str(row["item"]))]


def _item(name: str, found: list[Mapping[str, Any]]) -> Item:
    kept = [row for row in found if row["status"] not in FAILED]
    parts = [_parts(row["parts"]) if "parts" in row else {} for row in kept]
    cut = np.array([bool(row["truncated"]) for row in kept], dtype=bool)
    names = sorted({part for p in parts for part in p})
    return Item(
        id=name,
        right=np.array([bool(row["right"]) for row in kept], dtype=bool) & ~cut,
        value=np.where(cut, 0.0, np.array([row["value"] for row in kept], dtype=np.float64)),
        length=np.array([row["length"] for row in kept], dtype=np.float64),
        truncated=cut,
        answers=tuple(None if row["truncated"] else row.get("answer") for row in kept),
        parts={n: uncut(n, [p.get(n, np.nan) for p in parts], cut) for n in names},
        drawn=len(found),
    )


def _parts(cell: Any) -> Mapping[str, float]:
    """Score parts from a JSON string, a map's list of pairs, or a struct."""
    if not cell:
        return {}
    found = dict(json.loads(cell) if isinstance(cell, str) else cell)
    return {str(k): float(v) for k, v in found.items() if v is not None}
