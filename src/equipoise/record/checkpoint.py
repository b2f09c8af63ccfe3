"""Checkpoints: safetensors and JSON, written whole, verified by checksum, the last two kept. Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equipoise.errors import RecordError
from equipoise.protocols import Engine
from equipoise.record.folder import write_atomic

KEEP = 2


def save(folder: Path, engine: Engine, state: Mapping[str, Any], ahead: Callable[[Path], None] | None = None) -> None:
    """Write ``checkpoints/step-<step>``; it appears under its name only when it is complete. ``ahead`` writes what was
    drawn for steps to come into the folder that it is given, or makes none."""
    name = f"step-{state['step']:07d}"
    part, final = folder / f"{name}.part", folder / name
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        engine.save(part / "engine")
        if ahead is not None:
            ahead(part / "ahead")
        write_atomic(part / "state.json", json.dumps(state, sort_keys=True).encode())
        sums = {str(p.relative_to(part)): _digest(p) for p in sorted(part.rglob("*")) if p.is_file()}
        write_atomic(part / "checksums.json", json.dumps(sums, indent=1).encode())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(part, final)
    except OSError as e:
        shutil.rmtree(part, ignore_errors=True)
        raise RecordError(
            f"could not write checkpoint {final}: {e}. The earlier checkpoints are kept: free some space, then resume."
        ) from e
    for old in sorted(folder.glob("step-*[0-9]"))[:-KEEP]:
        shutil.rmtree(old)


def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "blake2b").hexdigest()


def newest(folder: Path) -> Path:
    """The newest complete and undamaged checkpoint. Raises RecordError when there is none, saying why."""
    faults = []
    for path in sorted(folder.glob("step-*[0-9]"), reverse=True):
        fault = damage(path)
        if fault is None:
            return path
        faults.append(fault)
    reasons = "; ".join(faults) or "none was written"
    raise RecordError(f"no usable checkpoint in {folder}: {reasons}. Start again with another --out.")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        sums = json.loads((path / "checksums.json").read_text())
    except (OSError, json.JSONDecodeError) as e:
        return f"{path.name} has no readable checksums ({e})"
    for name, wanted in sums.items():
        if not (path / name).is_file():
            return f"{path.name} lacks {name}"
        if _digest(path / name) != wanted:
            return f"{path.name}/{name} is truncated or altered"
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The loop's state of a checkpoint."""
    state: dict[str, Any] = json.loads((path / "state.json").read_text())
    return state
