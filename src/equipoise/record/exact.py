"""Groups to the last bit, for checkpoints: JSON for the structure, safetensors for the arrays. Never pickle.

Rollouts are for readers and keep less: no response notes with columns, tuples of a prompt's other columns as lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from equipoise.errors import RecordError
from equipoise.types import Cost, Group, Note, Prompt, Response, Score

RECORDS = {kind.__name__: kind for kind in (Cost, Group, Note, Prompt, Response, Score)}


def write(stem: Path, content: Any) -> None:
    """``stem``.json and ``stem``.safetensors: records of ``equipoise.types``, arrays and plain data, nested at will."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_told(content, arrays))
    stem.with_suffix(".json").write_text(text)
    save_file(arrays, stem.with_suffix(".safetensors"))


def read(stem: Path) -> Any:
    """What ``write`` wrote. Raises RecordError when it is damaged."""
    try:
        return _made(json.loads(stem.with_suffix(".json").read_text()), load_file(stem.with_suffix(".safetensors")))
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise RecordError(f"{stem}: the groups in flight of a checkpoint are damaged: {e}") from e


def _told(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = np.ascontiguousarray(value)
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    if type(value).__name__ in RECORDS and not isinstance(value, Mapping):
        held = {f.name: _told(getattr(value, f.name), arrays) for f in fields(value)}
        return {"record": type(value).__name__, "fields": held}
    if isinstance(value, Mapping):
        return {"map": [[_told(k, arrays), _told(v, arrays)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_told(v, arrays) for v in value]}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_told(v, arrays) for v in value]
    return value


def _made(told: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(told, list):
        return [_made(v, arrays) for v in told]
    if not isinstance(told, dict):
        return told
    if "array" in told:
        return arrays[told["array"]]
    if "record" in told:
        return RECORDS[told["record"]](**{k: _made(v, arrays) for k, v in told["fields"].items()})
    if "tuple" in told:
        return tuple(_made(v, arrays) for v in told["tuple"])
    return {_made(k, arrays): _made(v, arrays) for k, v in told["map"]}
