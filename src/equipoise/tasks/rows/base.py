"""Rows by number, whatever the file's form: an index of byte offsets (8 bytes a row), and reading by it."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import DataError
from equipoise.tasks.rows.faults import Faults

LINE_MB = 16  # longest line: a row is read whole


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

    @property
    def done(self) -> int:
        """Bytes that ``scan`` has read."""
        return self._file.tell()

    @property
    def total(self) -> int:
        """Bytes to read."""
        return self._stamp[0]

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


def lines(file: IO[bytes], faults: Faults) -> Iterator[tuple[int, bytes]]:
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


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
