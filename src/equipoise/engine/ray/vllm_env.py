"""vLLM's own Python environment: where it is, and how it is made.

    python -m equipoise.engine.ray.vllm_env [FOLDER]

vLLM asks for versions of transformers that this project has left behind, so the two cannot share an environment. Every
version is pinned in ``vllm.txt`` beside this file; vLLM's wish for torchaudio, torchvision and torchcodec is left
unfulfilled, since text needs none of them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from equipoise.errors import ArgumentError, MissingExtra

VARIABLE = "EQUIPOISE_VLLM_PYTHON"
FOLDER = ".venv-vllm"
COMMAND = "python -m equipoise.engine.ray.vllm_env"
PINNED = Path(__file__).parent / "vllm.txt"


def interpreter() -> Path:
    """The Python that has vLLM: what the variable EQUIPOISE_VLLM_PYTHON names, this one if it has vLLM, or that of the
    folder .venv-vllm here or beside this environment. Raises ArgumentError, MissingExtra."""
    if named := os.environ.get(VARIABLE):
        if not os.access(named, os.X_OK):
            raise ArgumentError(f"{VARIABLE} is {named!r}, which is no program. Name the python of an environment.")
        return Path(named)
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    for parent in (Path.cwd(), Path(sys.prefix).parent):
        if os.access(python := parent / FOLDER / "bin" / "python", os.X_OK):
            return python
    raise MissingExtra(f"vLLM's environment (neither {VARIABLE} nor a folder {FOLDER} names it)", COMMAND)


def make(folder: Path) -> Path:
    """Make the environment, or bring it up to date; returns its Python. Raises CalledProcessError."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--requirement", str(PINNED)], check=True)
    subprocess.run([python, "-c", "import vllm"], check=True)
    return python


if __name__ == "__main__":
    print(make(Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER)))
