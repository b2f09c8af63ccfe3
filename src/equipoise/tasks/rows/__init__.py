"""Rows of a user's file by number, with memory for an index and never for the file.

JSON lines, a JSON list and CSV are indexed by byte offset (8 bytes a row). A list is in memory while it is indexed,
so its size is bounded (``LIST_MB``). Parquet is compressed and its row groups can be as large
as the file, so it is rewritten once as JSON lines into a temporary file without a name, which ends with the process.
"""

from __future__ import annotations

import codecs
import hashlib
from pathlib import Path
from typing import IO

from equipoise.errors import DataError
from equipoise.tasks.progress import watched
from equipoise.tasks.rows.base import LINE_MB, Rows
from equipoise.tasks.rows.csv_rows import CsvRows
from equipoise.tasks.rows.faults import Faults
from equipoise.tasks.rows.json_list import LIST_MB, ListRows
from equipoise.tasks.rows.json_rows import JsonRows
from equipoise.tasks.rows.parquet import unpacked

__all__ = ["LINE_MB", "LIST_MB", "SUFFIXES", "Faults", "Rows", "digest", "open_rows"]

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
HEAD = 1 << 16  # bytes looked at to tell a list from lines


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
        rows = JsonRows(path, unpacked(path))
        rows.unit = "row"
        return rows
    if head == b"PAR1":
        raise DataError(f"{path}: this is a Parquet file; give it the suffix .parquet")
    if kind == "csv":
        return CsvRows(path, file)
    return _open_list(path, file) if _is_list(file) else JsonRows(path, file)


def _is_list(file: IO[bytes]) -> bool:
    """Whether a JSON file's first character is that of a list."""
    head = file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return head[:1] == b"["


def _open_list(path: Path, file: IO[bytes]) -> Rows:
    size = path.stat().st_size
    if size > LIST_MB << 20:
        raise DataError(
            f"{path}: one JSON list of {size >> 20:,} MB, and a list is read whole, up to {LIST_MB} MB. One object per "
            f"line has no such limit: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        )
    return ListRows(path, file)


def digest(path: Path) -> str:
    """Size and blake2b of a file's bytes, read as a stream."""
    found = hashlib.blake2b(digest_size=16)
    size = path.stat().st_size
    with path.open("rb") as file:
        for block in watched(iter(lambda: file.read(1 << 20), b""), f"fingerprint of {path.name}", size, file.tell):
            found.update(block)
    return f"{size}-{found.hexdigest()}"
