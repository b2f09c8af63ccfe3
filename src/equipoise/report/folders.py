"""What reports show, read from run directories. All text is made harmless here; templates escape it besides."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import RecordError
from equipoise.record.folder import Folder

Floats = NDArray[np.float64]

UNITS = {  # of spending: key in the records -> (words, unit on an axis)
    "flops": ("compute", "FLOPs"),
    "generated_tokens": ("generated tokens", "tokens"),
    "trained_tokens": ("trained tokens", "tokens"),
    "labels": ("labels", "labels"),
    "usd": ("money", "USD"),
    "seconds": ("time", "seconds"),
}
HELD_OUT = ("eval/pass@1", "eval/preference_accuracy", "eval/loss", "eval/reward")  # the first that there is
LONGEST = 2000  # characters shown of a prompt or response
BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: object) -> str:
    """Text without what a reader cannot see: control characters, direction overrides and lone surrogates become
    U+FFFD, and a long text is cut with a word on how much is missing."""
    found = "".join("\N{REPLACEMENT CHARACTER}" if _hidden(c) else c for c in str(text)[:LONGEST])
    rest = len(str(text)) - LONGEST
    return f"{found} … ({rest:,} more characters)" if rest > 0 else found


def _hidden(c: str) -> bool:
    return (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in BIDI


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not."""

    folder: Path
    metrics: Sequence[Mapping[str, Any]]
    timings: Sequence[Mapping[str, Any]]
    final: Mapping[str, Any]
    settings: str

    @cached_property
    def held_out(self) -> str | None:
        """The held-out metric of the learning curve."""
        return next((name for name in HELD_OUT if len(self.curve(name)[1])), None)

    @cached_property
    def _seconds(self) -> dict[int, float]:
        total, found = 0.0, {}
        for line in self.timings:
            total += float(line.get("seconds", 0.0))
            found[int(line["step"])] = total
        return found

    def _cell(self, line: Mapping[str, Any], name: str) -> float | None:
        value = self._seconds.get(line.get("step", -1)) if name == "spent/seconds" else line.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
        return float(value) if number and value is not None else None

    def curve(self, *names: str, against: str = "fraction") -> tuple[Floats, ...]:
        """Columns ``against`` and ``names`` of the steps that have all of them."""
        cells = [[self._cell(line, name) for name in (against, *names)] for line in self.metrics]
        full = [row for row in cells if None not in row]
        table = np.array(full, dtype=np.float64).reshape(-1, len(names) + 1)
        return tuple(table.T)

    def spends(self) -> list[str]:
        """Units of which the run spent anything, in the order of ``UNITS``."""
        return [unit for unit in UNITS if self.curve(against=f"spent/{unit}")[0].max(initial=0.0) > 0]


def load_run(folder: Path) -> Run:
    """Raises RecordError when ``folder`` is no run directory or its final.json is damaged."""
    settings = folder / "run.toml"
    if not settings.exists() and not (folder / "metrics.jsonl").exists():
        raise RecordError(f"{folder} is no run directory: it has neither run.toml nor metrics.jsonl")
    files = Folder(folder)
    return Run(
        folder,
        files.lines("metrics.jsonl"),
        files.lines("timings.jsonl"),
        load_json(folder / "final.json") if (folder / "final.json").exists() else {},
        settings.read_text(errors="replace") if settings.exists() else "",
    )


def load_json(path: Path) -> dict[str, Any]:
    """Raises RecordError when the file is missing or damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"cannot read {path}: {error}") from error
    return found


@dataclass(frozen=True)
class Sample:
    """One response, ready to be shown."""

    text: str
    value: float | None
    status: str
    note: str = ""


@dataclass(frozen=True)
class Exchange:
    """A prompt with the responses of each of several columns."""

    item: str
    prompt: str
    columns: Mapping[str, Sequence[Sample]]


def exchanges(tables: Mapping[str, Sequence[Mapping[str, Any]]], items: int, samples: int) -> list[Exchange]:
    """The first ``items`` prompts with up to ``samples`` responses from each of the named evaluation tables."""
    first = next(iter(tables.values()), ())
    wanted = list(dict.fromkeys(str(row["item"]) for row in first))[:items]
    prompts = {str(row["item"]): str(row["prompt"]) for row in first}
    found: dict[str, dict[str, list[Sample]]] = {item: {name: [] for name in tables} for item in wanted}
    for name, table in tables.items():
        for row in table:
            held = found.get(str(row["item"]), {}).get(name)
            if held is not None and len(held) < samples:
                held.append(_sample(row))
    return [Exchange(visible(item), visible(prompts[item]), found[item]) for item in wanted]


def _sample(row: Mapping[str, Any]) -> Sample:
    length, cut = row.get("length"), row.get("truncated")
    note = ("" if length is None else f"{length} tokens") + (", truncated" if cut else "")
    value = row.get("value")
    return Sample(visible(row["text"]), None if value is None else float(value), visible(row.get("status") or ""), note)


def training_rollouts(folder: Path, groups: int = 4, samples: int = 4) -> list[tuple[str, list[Exchange]]]:
    """Groups of the first and the last step that were trained on: [("step 1", exchanges), ...]."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = [p for p in sorted((folder / "rollouts").glob("*.parquet")) if not p.stem.endswith("0000000")]
    shown = []
    for path in dict.fromkeys([*paths[:1], *paths[-1:]]):
        try:
            known = set(pq.read_schema(path).names)
            columns = [c for c in ("step", "prompt_id", "prompt", "text", "value", "status", "stop") if c in known]
            rows = pq.read_table(path, columns=columns).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"cannot read {path}: {error}") from error
        table = [{**row, "item": row["prompt_id"], "truncated": row.get("stop") == "length"} for row in rows]
        if table:
            shown.append((f"step {table[0]['step']}", exchanges({"responses": table}, groups, samples)))
    return shown
