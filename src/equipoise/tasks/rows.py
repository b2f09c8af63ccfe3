"""Rows of a user's file by number, with memory for an index and never for the file.

JSON lines and CSV are indexed by byte offset (8 bytes a row). Parquet is compressed and its row groups can be as large
as the file, so it is rewritten once as JSON lines into a temporary file without a name, which ends with the process.
"""

from __future__ import annotations

import base64
import codecs
import csv
import hashlib
import io
import json
import os
import tempfile
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import DataError

LINE_MB = 16  # longest line: a row is read whole
SHOWN = 3  # examples of each kind of fault
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


@dataclass
class Faults:
    """What is wrong with a file, by kind, with a count and the first places of each."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    fixes: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: str, got: str, fix: str) -> None:
        """``kind``: what was expected and not met, in a few words; ``where``: row and column."""
        self.counts[kind] += 1
        self.fixes.setdefault(kind, fix)
        places = self.places.setdefault(kind, [])
        if len(places) < SHOWN:
            places.append(f"{where}: {got}")

    def raise_any(self, rows: int) -> None:
        """Raises DataError with every kind, its count, its first places and how to mend it."""
        if not self.counts:
            return
        lines = [
            f"{self.path}: {sum(self.counts.values()):,} faults in {rows:,} rows; no row was skipped or guessed at."
        ]
        for kind, count in self.counts.most_common():
            lines.append(f"{count:,} x {kind}")
            lines += [f"    {place}" for place in self.places[kind]]
            if count > SHOWN:
                lines.append(f"    ... and {count - SHOWN:,} more")
            lines.append(f"    fix: {self.fixes[kind]}")
        raise DataError("\n".join(lines))


class Rows:
    """Rows by number. ``scan`` must be run to its end first; it makes the index."""

    unit = "line"

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self._starts = array("Q")  # byte offset of each row
        self._skipped: list[int] = []  # rows before which a line stood that is no row
        self._end = 0
        self.seen = 0  # rows met by ``scan``, faulty ones included
        self._stamp = _stamp(file)

    def __len__(self) -> int:
        return len(self._starts)

    def number(self, row: int) -> int:
        """The line (from 1) on which row ``row`` (from 0) begins."""
        return row + 1 + bisect_right(self._skipped, row)

    def size(self, row: int) -> int:
        """Bytes of a row in the file."""
        return int((self._starts[row + 1] if row + 1 < len(self._starts) else self._end) - self._starts[row])

    def sizes(self) -> NDArray[np.int64]:
        """Bytes of every row, [rows]."""
        edges = np.array(self._starts, dtype=np.int64)
        return np.append(edges[1:], self._end) - edges

    def __getitem__(self, row: int) -> dict[str, Any]:
        if _stamp(self._file) != self._stamp:
            raise DataError(f"{self.path} was changed while it was in use; start again on a file that stays as it is")
        return self._parse(os.pread(self._file.fileno(), self.size(row), self._starts[row]))

    def scan(self, faults: Faults) -> Iterator[dict[str, Any]]:
        """Every row once, in order; faults of form go to ``faults`` and their rows are left out of the index."""
        raise NotImplementedError

    def _parse(self, raw: bytes) -> dict[str, Any]:
        raise NotImplementedError


class JsonRows(Rows):
    """One JSON object per line."""

    def scan(self, faults: Faults) -> Iterator[dict[str, Any]]:
        for number, (start, raw) in enumerate(_lines(self._file, faults), 1):
            filled = bool(raw.strip())
            self.seen += filled or not raw
            row = self._object(raw.rstrip(b"\r\n"), f"line {number}", faults) if filled else None
            if row is None:
                self._skipped.append(len(self._starts))
                continue
            self._starts.append(start)
            yield row
        self._end = self._file.tell()

    def _object(self, raw: bytes, where: str, faults: Faults) -> dict[str, Any] | None:
        try:
            row = json.loads(raw.decode("utf-8-sig" if raw.startswith(codecs.BOM_UTF8) else "utf-8"))
        except UnicodeDecodeError as fault:
            _bad_encoding(faults, where, fault)
        except (ValueError, RecursionError) as fault:
            got = f"{getattr(fault, 'msg', fault)} (character {getattr(fault, 'colno', '?')}): {_excerpt(raw)}"
            faults.add("not JSON", where, got, _json_fix(raw))
        else:
            if isinstance(row, dict):
                return row
            faults.add("not a JSON object", where, f"got {type(row).__name__}: {_excerpt(raw)}", _json_fix(raw))
        return None

    def _parse(self, raw: bytes) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(raw.decode("utf-8-sig"))
        return row


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
        for start, raw in _lines(self._file, faults):
            at.line += 1
            at.byte = start + len(raw)
            try:
                yield raw.decode("utf-8-sig" if start == 0 else "utf-8")
            except UnicodeDecodeError as fault:
                _bad_encoding(faults, f"line {at.line}", fault)
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


def open_rows(path: Path) -> Rows:
    """The reader for a file by its suffix. Raises DataError for one that is missing, empty or of another kind."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Expected the path of a {', '.join(SUFFIXES)} file after 'file:'")
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        hint = " (unpack it first)" if path.suffix in (".gz", ".zst", ".zip", ".bz2", ".xz") else ""
        raise DataError(
            f"{path}: cannot tell its kind by {path.suffix or 'no suffix'!r}{hint}; known: {', '.join(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes); expected one row per prompt")
    file = path.open("rb")
    head = file.read(4)
    file.seek(0)
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path}: encoded as UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 {path.name}")
    if kind == "parquet":
        file.close()
        rows = JsonRows(path, _unpacked(path))
        rows.unit = "row"
        return rows
    if head == b"PAR1":
        raise DataError(f"{path}: this is a Parquet file; give it the suffix .parquet")
    return JsonRows(path, file) if kind == "jsonl" else CsvRows(path, file)


def digest(path: Path) -> str:
    """Size and blake2b of a file's bytes, read as a stream."""
    with path.open("rb") as file:
        return f"{path.stat().st_size}-{hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()}"


def _lines(file: IO[bytes], faults: Faults) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its break). A line above the limit is passed over in pieces, reported, and
    yields nothing."""
    limit = LINE_MB << 20
    file.seek(0)
    start, number = 0, 0
    while raw := file.readline(limit + 1):
        number += 1
        size = len(raw)
        if size > limit:
            while not raw.endswith(b"\n") and (raw := file.readline(limit)):
                size += len(raw)
            got = f"{size:,} bytes, more than {limit:,}"
            faults.add(
                "line too long", f"line {number}", got, "a row is one example: split it, or mend the line breaks"
            )
            raw = b""
        yield start, raw
        start += size


def _unpacked(path: Path) -> IO[bytes]:
    """A Parquet file's rows as JSON lines in a temporary file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spool = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the rows
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as source:
            for batch in source.iter_batches(batch_size=64, use_threads=False):
                spool.writelines(
                    json.dumps(row, default=_plain, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
                    for row in batch.to_pylist()
                )
    except (pa.ArrowException, OSError) as fault:
        raise DataError(f"{path}: cannot be read as Parquet: {str(fault)[:300]}") from fault
    spool.flush()
    if spool.tell() == 0:
        raise DataError(f"{path}: the file has no rows")
    return spool


def _plain(value: object) -> object:
    """What JSON has no word for: bytes as base64, dates and numbers as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


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


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _bad_encoding(faults: Faults, where: str, fault: UnicodeDecodeError) -> None:
    got = f"byte 0x{fault.object[fault.start]:02x} at position {fault.start}"
    faults.add("not UTF-8", where, got, "save the file as UTF-8, e.g. iconv -f LATIN1 -t UTF-8 old > new")


def _json_fix(raw: bytes) -> str:
    if raw.lstrip()[:1] == b"[":
        return "write one JSON object per line; an array is turned into lines by: jq -c '.[]' old.json > new.jsonl"
    return "write one JSON object per line"


def _excerpt(raw: bytes) -> str:
    text = raw[:60].decode("utf-8", "replace").strip()
    return repr(text + ("..." if len(raw) > 60 else ""))
