"""JSON lines: one object a line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from equipoise.tasks.rows.base import Rows, lines
from equipoise.tasks.rows.faults import Faults, bad_encoding, excerpt, json_fix


class JsonRows(Rows):
    """One JSON object per line."""

    def scan(self, faults: Faults) -> Iterator[dict[str, Any]]:
        for number, (start, raw) in enumerate(lines(self._file, faults), 1):
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
            bad_encoding(faults, where, fault)
        except (ValueError, RecursionError) as fault:
            got = f"{getattr(fault, 'msg', fault)} (character {getattr(fault, 'colno', '?')}): {excerpt(raw)}"
            faults.add("not JSON", where, got, json_fix(raw))
        else:
            if isinstance(row, dict):
                return row
            faults.add("not a JSON object", where, f"got {type(row).__name__}: {excerpt(raw)}", json_fix(raw))
        return None

    def _parse(self, raw: bytes) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(raw.decode("utf-8-sig"))
        return row
