"""What is wrong with a file, gathered while it is read, so that all of it can be told at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from equipoise.errors import DataError

SHOWN = 3  # examples of each kind of fault


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


def bad_encoding(faults: Faults, where: str, fault: UnicodeDecodeError) -> None:
    got = f"byte 0x{fault.object[fault.start]:02x} at position {fault.start}"
    faults.add("not UTF-8", where, got, "save the file as UTF-8, e.g. iconv -f LATIN1 -t UTF-8 old > new")


def json_fix(raw: bytes) -> str:
    if raw.strip() == b"{":
        return "write each object on one line (jq -c . old.json > new.jsonl), or one list of objects in the whole file"
    return "write one JSON object per line, or one list of objects in the whole file"


def excerpt(raw: bytes) -> str:
    text = raw[:60].decode("utf-8", "replace").strip()
    return repr(text + ("..." if len(raw) > 60 else ""))
