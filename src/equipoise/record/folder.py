"""The run directory: who may write it, and its line-by-line files.

run.toml  metrics.jsonl  timings.jsonl  ledger.jsonl  rollouts/  checkpoints/  model/  evaluation/  final.json
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from equipoise.errors import RecordError


class Folder:
    """Paths and line files of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether the run has ended and said so."""
        return (self / "final.json").exists()

    def free(self) -> None:
        """Raises RecordError when a run, or anything else, is there already."""
        if (self / "run.toml").exists():
            state = "a finished" if self.finished else "an unfinished"
            raise RecordError(
                f"{self.path} holds {state} run. Go on with `equipoise resume {self.path}`, or choose another --out."
            )
        if self.path.exists() and not self.path.is_dir():
            raise RecordError(f"{self.path} is a file; choose another --out.")
        if self.path.exists() and any(p.name != ".lock" for p in self.path.iterdir()):
            raise RecordError(f"{self.path} exists and is not empty; choose another --out.")

    def create(self) -> None:
        """Make the directory. Raises RecordError when a run is there already."""
        self.free()
        for name in ("rollouts", "checkpoints", "evaluation"):
            (self / name).mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against other processes; freed by the system when this one dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise RecordError(f"{self.path} is being written by another process; wait for it or stop it.") from e
            yield

    def write_toml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a TOML file whole. None is left out, as TOML has no word for it."""
        write_atomic(self / name, tomli_w.dumps(_without_none(content)).encode())

    def read_toml(self, name: str) -> dict[str, Any]:
        """Raises RecordError when the file is missing or broken."""
        return read_toml(self / name)

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file whole."""
        write_atomic(self / name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def append(self, name: str, line: Mapping[str, Any]) -> None:
        """Add a line to a JSONL file; it is on its way to the disk when this returns."""
        with open(self / name, "a") as f:
            f.write(json.dumps(line, sort_keys=True) + "\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The whole lines of a JSONL file; a torn last line is left out."""
        path, found = self / name, []
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return found

    def rewind(self, step: int) -> None:
        """Take back everything after ``step``: the resumed run will write it again."""
        for name in ("metrics.jsonl", "timings.jsonl"):
            kept = [line for line in self.lines(name) if line["step"] <= step]
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept)
            write_atomic(self / name, text.encode())
        for path in (self / "rollouts").glob("*.parquet"):
            if int(path.stem.split("-")[1]) > step:
                path.unlink()


def read_toml(path: Path) -> dict[str, Any]:
    """Raises RecordError when the file is missing or broken."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as e:
        raise RecordError(f"{path} does not exist; {path.parent} is no run directory.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecordError(f"{path} is not readable as TOML: {e}") from e


def write_atomic(path: Path, content: bytes) -> None:
    """All or nothing, also when the process is killed or the disk is full."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _without_none(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {str(k): _without_none(v) for k, v in x.items() if v is not None}
    if isinstance(x, (list, tuple)):
        return [_without_none(v) for v in x]
    return x
