"""Comma- or tab-separated values."""

from __future__ import annotations

import csv
import io
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from equipoise.tasks.rows.base import LINE_MB, Rows, lines
from equipoise.tasks.rows.faults import Faults, bad_encoding


class CsvRows(Rows):
    """Comma- or tab-separated values with a header. A cell that holds a JSON list or object of turns is read as one."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        super().__init__(path, file)
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self._header: list[str] = []
        self._numbers = array("Q")
        csv.field_size_limit(LINE_MB << 20)

    def number(self, row: int) -> int:
        return int(self._numbers[row])

    def scan(self, faults: Faults) -> Iterator[dict[str, Any]]:
        at = _Position()
        reader = csv.reader(self._decoded(at, faults), delimiter=self._delimiter, strict=True)
        while True:
            start, number = at.byte, at.line + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as fault:
                self.seen += 1
                faults.add("not CSV", f"line {number}", str(fault), 'double the quotes in a quoted cell: "say ""hi"""')
                continue
            if not cells:
                continue
            if not self._header:
                self._header = [c.strip() for c in cells]
                continue
            self.seen += 1
            if len(cells) != len(self._header):
                got = f"{len(cells)} cells where the header names {len(self._header)}"
                faults.add(
                    "wrong number of cells", f"line {number}", got, "quote cells that hold commas or line breaks"
                )
                continue
            self._starts.append(start)
            self._numbers.append(number)
            self._end = at.byte
            yield self._row(cells)

    def _decoded(self, at: _Position, faults: Faults) -> Iterator[str]:
        for start, raw in lines(self._file, faults):
            at.line += 1
            at.byte = start + len(raw)
            try:
                yield raw.decode("utf-8-sig" if start == 0 else "utf-8")
            except UnicodeDecodeError as fault:
                bad_encoding(faults, f"line {at.line}", fault)
                yield raw.decode("utf-8", "replace")

    def _parse(self, raw: bytes) -> dict[str, Any]:
        text = io.StringIO(raw.decode(), newline="")
        return self._row(next(csv.reader(text, delimiter=self._delimiter, strict=True)))

    def _row(self, cells: list[str]) -> dict[str, Any]:
        return {k: _turns(v) for k, v in zip(self._header, cells, strict=True) if v != ""}


@dataclass
class _Position:
    """How far a CSV reader has come."""

    line: int = 0
    byte: int = 0


def _turns(cell: str) -> object:
    """A cell that holds JSON turns or an object as such; any other cell is text."""
    if cell[:1] not in ("[", "{"):
        return cell
    try:
        value = json.loads(cell)
    except ValueError:
        return cell
    turns = isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value)
    return value if turns or isinstance(value, dict) else cell
