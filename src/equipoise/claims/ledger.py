"""The ledger: specs found by their files, results appended to one list a claim, rows for people and programs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.claims.claim import Claim
from equipoise.errors import RecordError, UnknownName
from equipoise.record.folder import write_atomic

SPECS = Path(__file__).parent / "specs"
RESULTS = Path(__file__).parent / "results"
Result = Mapping[str, Any]


def claims(specs: Path | None = None) -> list[Claim]:
    """Every claim, by id."""
    return sorted((_load(path) for path in (specs or SPECS).glob("[a-z]*.py")), key=lambda c: c.id)


def claim(name: str, specs: Path | None = None) -> Claim:
    """One claim by its id, in any case of letters. Raises UnknownName with the nearest."""
    found = {c.id.lower(): c for c in claims(specs)}
    if name.lower() not in found:
        raise UnknownName("claim", name, [c.id for c in found.values()])
    return found[name.lower()]


def spec_path(found: Claim, specs: Path | None = None) -> Path:
    """The file that holds a claim: named as its id, in lower case, with _ for -."""
    return (specs or SPECS) / f"{found.id.lower().replace('-', '_')}.py"


def _load(path: Path) -> Claim:
    spec = importlib.util.spec_from_file_location(f"equipoise.claims.specs.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecordError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Claim = module.CLAIM
    if spec_path(found, path.parent) != path:
        raise RecordError(f"{path} holds the claim {found.id}; expected it in {spec_path(found, path.parent)}")
    return found


def results(name: str, folder: Path | None = None) -> list[Result]:
    """The stored results of a claim, oldest first. Raises RecordError for a damaged file."""
    path = (folder or RESULTS) / f"{name}.json"
    try:
        found: list[Result] = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is damaged: {error}. Restore it from its repository") from error
    return found


def append(name: str, result: Result, folder: Path | None = None) -> Path:
    """Add a result to a claim's list; returns the file."""
    path = (folder or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([*results(name, folder), result], indent=1, allow_nan=False)
    write_atomic(path, (text + "\n").encode())
    return path


def fresh_seeds(past: Sequence[Result], count: int) -> list[int]:
    """``count`` seeds after the highest that any stored result used."""
    first = 1 + max((seed for result in past for seed in result["seeds"]), default=-1)
    return list(range(first, first + count))


def row(found: Claim, folder: Path | None = None) -> dict[str, Any]:
    """What ``equipoise claims --json`` says of a claim: its newest result. ``seeds`` is how many."""
    past = results(found.id, folder)
    last = past[-1] if past else {}
    held = {name: last.get(name) for name in ("verdict", "estimate", "low", "high", "date", "commit")}
    seeds = len(last["seeds"]) if last else None
    ordered = {"id": found.id, "method": found.method, "verdict": held.pop("verdict"), "seeds": seeds}
    return ordered | held


def search(words: Sequence[str], specs: Path | None = None, folder: Path | None = None) -> list[Claim]:
    """The claims whose id, method, words or verdict mention all of ``words``."""

    def text(c: Claim) -> str:
        return " ".join((c.title, c.arxiv, c.says, c.task, c.model, json.dumps(row(c, folder)))).lower()

    return [c for c in claims(specs) if all(w.lower() in text(c) for w in words)]
