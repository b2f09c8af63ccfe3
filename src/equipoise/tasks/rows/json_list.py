"""A file that is one JSON list of rows."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from equipoise.tasks.rows.base import LINE_MB
from equipoise.tasks.rows.faults import Faults, bad_encoding, excerpt
from equipoise.tasks.rows.json_rows import JsonRows

LIST_MB = 128  # longest list: its text is in memory while it is indexed
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


class ListRows(JsonRows):
    """The objects of one JSON list, by number. The text is let go when ``scan`` ends."""

    unit = "row"

    @property
    def done(self) -> int:
        return self._end

    def scan(self, faults: Faults) -> Iterator[dict[str, Any]]:
        text, byte = self._text(faults)
        at = 0
        try:
            for begin, end, value in elements(text):
                byte += begin - at  # spaces and a comma: a byte each
                at, size = end, len(text[begin:end].encode())
                self.seen += 1
                if self._fits(value, size, text[begin:end], faults):
                    self._starts.append(byte)
                    self._end = byte + size
                    yield value
                byte += size
        except json.JSONDecodeError as fault:
            got = f"{fault.msg} (character {fault.colno}): {excerpt(text[fault.pos : fault.pos + 61].encode())}"
            faults.add("not JSON", f"line {fault.lineno}", got, "mend it there; what follows was not read")
        except RecursionError:
            faults.add("not JSON", f"row {self.seen + 1}", "lists or objects nested too deeply", "flatten this row")

    def _text(self, faults: Faults) -> tuple[str, int]:
        """The file's text, and the byte it begins at."""
        self._file.seek(0)
        raw = self._file.read()
        begin = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
        try:
            return raw[begin:].decode("utf-8"), begin
        except UnicodeDecodeError as fault:
            line = 1 + raw.count(b"\n", 0, begin + fault.start)
            bad_encoding(faults, f"line {line}", fault)
            return "[]", begin

    def _fits(self, value: object, size: int, said: str, faults: Faults) -> bool:
        """Whether an element is a row; if not, that is told."""
        if isinstance(value, dict) and size <= LINE_MB << 20:
            return True
        if isinstance(value, dict):
            got, fix = f"{size:,} bytes, more than {LINE_MB << 20:,}", "a row is one example: split it"
            faults.add("row too long", f"row {self.seen}", got, fix)
        else:
            got = f"got {type(value).__name__}: {excerpt(said[:61].encode())}"
            faults.add("not a JSON object", f"row {self.seen}", got, "each element of the list is one row, an object")
        self._skipped.append(len(self._starts))
        return False

    def _parse(self, raw: bytes) -> dict[str, Any]:
        row: dict[str, Any] = _DECODER.raw_decode(raw.decode("utf-8"))[0]  # a comma and spaces follow
        return row


def elements(text: str) -> Iterator[tuple[int, int, Any]]:
    """(begin, end, value) of each element of the list that ``text`` is, in characters. Raises JSONDecodeError."""
    at = _past_space(text, _past_space(text, 0) + 1)
    if text[at : at + 1] != "]":
        while True:
            value, end = _DECODER.raw_decode(text, at)
            yield at, end, value
            at = _past_space(text, end)
            if text[at : at + 1] != ",":
                break
            at = _past_space(text, at + 1)
    if text[at : at + 1] != "]":
        raise json.JSONDecodeError("expected ',' or ']'", text, at)
    rest = _past_space(text, at + 1)
    if rest < len(text):
        raise json.JSONDecodeError("text after the end of the list", text, rest)


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
