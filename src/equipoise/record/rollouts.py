"""Every response ever used, one Parquet row each, one file a step: enough to rebuild the groups and every metric.

``use``: "trained", "silent" (no gradient in it), "dropped" (by a filter), "stored" (kept for a later stage),
"preflight", "unused" (drawn beside a stream that the budget could no longer pay, so that no step was made of them).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.errors import RecordError
from equipoise.types import Group, Note, Prompt, Response, Score

_FLOATS = pa.list_(pa.float64())
SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("stage", pa.string()),
        ("stream", pa.int32()),
        ("store", pa.string()),
        ("use", pa.string()),
        ("group", pa.int32()),  # within the step
        ("sample", pa.int32()),  # within the group
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),  # for readers
        ("prompt_ids", pa.list_(pa.int32())),
        ("source", pa.string()),  # JSON: messages or text, answer
        ("meta", pa.string()),  # JSON: the data's other columns
        ("text", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),  # the sampler's
        ("learner_logprobs", _FLOATS),  # the learner's before the update; null where it was not run
        ("trained", pa.list_(pa.bool_())),
        ("segment", pa.list_(pa.int32())),
        ("temperature", pa.float64()),
        ("origin", pa.string()),
        ("version", pa.int32()),
        ("stop", pa.string()),
        ("key", pa.string()),
        ("value", pa.float64()),
        ("status", pa.string()),
        ("message", pa.string()),  # why a verifier failed
        ("answer", pa.string()),
        ("steps", pa.list_(pa.float32())),  # per token: credit that the signal placed, where it does
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("advantage", _FLOATS),  # per token
        ("response_notes", pa.map_(pa.string(), pa.float64())),
        ("token_notes", pa.map_(pa.string(), _FLOATS)),
    ]
)


def rows(
    groups: Iterable[tuple[Group, str]], step: int, stage: str, stream: int, store: str | None, first: int = 0
) -> Iterator[dict[str, Any]]:
    """One row a response of ``(group, use)`` pairs, numbered from ``first``."""
    for k, (group, use) in enumerate(groups, start=first):
        for i, response in enumerate(group.responses):
            yield {
                "step": step,
                "stage": stage,
                "stream": stream,
                "store": None if use == "dropped" else store,
                "use": use,
                "group": k,
                "sample": i,
                **_prompt(group.prompt),
                **_response(response),
                **_score(group, i),
                **_notes(group, i),
            }


def _prompt(prompt: Prompt) -> dict[str, Any]:
    shown = prompt.text if prompt.text is not None else "\n".join(str(m.get("content", "")) for m in prompt.messages)
    source = {"messages": list(prompt.messages), "text": prompt.text, "answer": prompt.answer}
    return {
        "prompt_id": prompt.id,
        "prompt": shown,
        "prompt_ids": prompt.ids,
        "source": json.dumps(source, default=_plain),
        "meta": json.dumps(dict(prompt.meta), default=_plain),
    }


def _plain(value: Any) -> Any:
    """What JSON has no word for: arrays and their numbers as lists and numbers, the rest as text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _response(r: Response) -> dict[str, Any]:
    return {
        "text": r.text,
        "ids": r.ids,
        "logprobs": r.logprobs,
        "trained": r.trained,
        "segment": r.segment,
        "temperature": r.temperature,
        "origin": r.origin,
        "version": r.version,
        "stop": r.stop,
        "key": r.key,
    }


def _score(group: Group, i: int) -> dict[str, Any]:
    if not group.scores:
        return dict.fromkeys(("value", "status", "message", "answer", "steps", "parts"))
    s = group.scores[i]
    return {
        "value": s.value,
        "status": s.status,
        "message": s.message,
        "answer": s.answer,
        "steps": s.steps,
        "parts": sorted(s.parts.items()),
    }


def _notes(group: Group, i: int) -> dict[str, Any]:
    advantage, learner = None, None
    response: dict[str, float] = {}
    token: dict[str, Any] = {}
    for name, note in sorted(group.notes.items()):
        if name == "advantage":
            n = len(group.responses[i].ids)
            advantage = note.values[i] if note.level == "token" else np.full(n, note.values[0][i])
        elif name == "logp":
            learner = note.values[i]
        elif note.level == "token":
            token[name] = note.values[i]
        elif note.level == "response" and note.values[0].ndim == 1:
            response[name] = float(note.values[0][i])
        elif note.level == "group":
            response[name] = float(note.values[0][0])
    return {
        "advantage": advantage,
        "learner_logprobs": learner,
        "response_notes": list(response.items()),
        "token_notes": list(token.items()),
    }


def write(folder: Path, step: int, lines: list[dict[str, Any]]) -> None:
    """``rollouts/step-<step>.parquet``, whole or not at all."""
    if not lines:
        return
    path = folder / f"step-{step:07d}.parquet"
    part = path.with_suffix(".part")
    columns = {name: [line[name] for line in lines] for name in SCHEMA.names}
    try:
        pq.write_table(pa.table(columns, schema=SCHEMA), part, compression="zstd")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read(folder: Path, store: str | None = None) -> list[Group]:
    """The groups of a directory of rollouts, in the order they were made; of one store if it is named.

    Raises RecordError when a file is damaged."""
    groups: list[Group] = []
    for path in sorted(folder.glob("step-*.parquet")):
        try:
            # With the schema, columns that a file lacks, because an earlier version wrote it, are null.
            table = pq.read_table(path, schema=SCHEMA, filters=None if store is None else [("store", "=", store)])
        except (OSError, pa.ArrowInvalid) as e:
            raise RecordError(f"{path} is damaged: {e}") from e
        found: dict[int, list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            found.setdefault(row["group"], []).append(row)
        groups += [_group(found[k]) for k in sorted(found)]
    return groups


def _group(found: list[dict[str, Any]]) -> Group:
    first = found[0]
    source = json.loads(first["source"])
    prompt = Prompt(
        id=first["prompt_id"],
        messages=tuple(source["messages"]),
        text=source["text"],
        answer=source["answer"],
        meta=json.loads(first["meta"] or "{}"),
        ids=None if first["prompt_ids"] is None else tuple(first["prompt_ids"]),
    )
    scores = tuple(_read_score(r) for r in found if r["status"])
    return Group(prompt, tuple(_read_response(r) for r in found), scores, _read_notes(found))


def _read_score(r: dict[str, Any]) -> Score:
    return Score(
        value=r["value"],
        status=r["status"],
        steps=None if r["steps"] is None else np.array(r["steps"], dtype=np.float32),
        parts=dict(r["parts"] or ()),
        answer=r["answer"],
        message=r["message"] or "",
    )


def _read_response(r: dict[str, Any]) -> Response:
    return Response(
        ids=np.array(r["ids"], dtype=np.int64),
        logprobs=None if r["logprobs"] is None else np.array(r["logprobs"], dtype=np.float32),
        trained=np.array(r["trained"], dtype=bool),
        segment=np.array(r["segment"], dtype=np.int32),
        text=r["text"],
        temperature=r["temperature"],
        origin=r["origin"],
        version=r["version"],
        stop=r["stop"],
        key=r["key"],
    )


def _read_notes(found: list[dict[str, Any]]) -> dict[str, Note]:
    notes: dict[str, Note] = {}
    if all(r["learner_logprobs"] is not None for r in found):
        notes["logp"] = Note("token", tuple(np.array(r["learner_logprobs"]) for r in found))
    if all(r["advantage"] is not None for r in found):
        notes["advantage"] = Note("token", tuple(np.array(r["advantage"]) for r in found))
    for name, _ in found[0]["token_notes"]:
        notes[name] = Note("token", tuple(np.array(dict(r["token_notes"])[name]) for r in found))
    for name, _ in found[0]["response_notes"]:
        notes[name] = Note("response", (np.array([dict(r["response_notes"])[name] for r in found]),))
    return notes
