"""Training state on disk: safetensors and JSON only, checked when it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from equipoise.errors import RecordError

FORMAT = 1
_HEADER = "engine.json"


def write(folder: Path, header: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """One safetensors file per name, and a header with their checksums, written last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in tensors.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, folder / f"{name}.safetensors")
    seal(folder, header, list(tensors))


def seal(folder: Path, header: Mapping[str, Any], names: Sequence[str]) -> None:
    """Write the header of files that are there."""
    files = {f"{name}.safetensors": _checksum(folder / f"{name}.safetensors") for name in names}
    (folder / _HEADER).write_text(json.dumps({"format": FORMAT, **header, "files": files}, indent=1) + "\n")


def read_header(folder: Path) -> dict[str, Any]:
    """The header, after every file it lists was found whole. Raises RecordError."""
    try:
        header = json.loads((folder / _HEADER).read_text())
        files = dict(header["files"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise RecordError(
            f"{folder / _HEADER} cannot be read ({cause}): this is no engine state, or a damaged one. "
            "Resume from an earlier checkpoint."
        ) from cause
    if header.get("format") != FORMAT:
        raise RecordError(f"{folder} has format {header.get('format')!r}; this version reads {FORMAT}.")
    for name, expected in files.items():
        path = folder / Path(name).name
        found = _checksum(path) if path.is_file() else "nothing"
        if found != expected:
            raise RecordError(
                f"{path} is damaged or incomplete: its size and checksum are {found}, and {expected} was written. "
                "Resume from an earlier checkpoint."
            )
    return cast(dict[str, Any], header)


def read_tensors(folder: Path, name: str, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of one file; with ``expected``, of the same names and shapes. Raises RecordError."""
    path = folder / f"{name}.safetensors"
    try:
        tensors = cast(dict[str, Tensor], load_file(path))
    except (OSError, SafetensorError, ValueError) as cause:
        raise RecordError(f"{path} cannot be read: {cause}. Resume from an earlier checkpoint.") from cause
    if expected is not None:
        got = {k: tuple(v.shape) for k, v in tensors.items()}
        wanted = {k: tuple(v.shape) for k, v in expected.items()}
        if got != wanted:
            odd = sorted(k for k in got.keys() | wanted.keys() if got.get(k) != wanted.get(k))[:3]
            raise RecordError(
                f"{path} belongs to another model or adaptation: it differs in "
                + ", ".join(f"{k} ({got.get(k)}, expected {wanted.get(k)})" for k in odd)
                + ". Resume with the model and --lora.rank the run began with."
            )
    return tensors


def _checksum(path: Path) -> str:
    value, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value, size = zlib.crc32(block, value), size + len(block)
    return f"{size}:{value:08x}"


def same_identity(folder: Path, header: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises RecordError when the state was written for another model."""
    for key, value in identity.items():
        if header.get(key) != value:
            raise RecordError(
                f"{folder} belongs to another model or adaptation: its {key} is {header.get(key)!r} and this "
                f"model's is {value!r}. Resume with the model, dtype and --lora.rank the run began with."
            )
