"""Invariant 8: imports point one way, and listing things loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import equipoise

ROOT = Path(equipoise.__file__).parent

# A file may import from its own layer and from lower ones. The room of a file is its folder, or its name at the top.
LAYERS = [
    {"types", "keys", "errors", "protocols"},
    {"budget"},
    {"recipe"},
    {"parts"},
    {"engine", "models", "tasks", "verify"},
    {"run", "record", "evaluate"},
    {"recipes"},
    {"job"},
    {"trial"},
    {"report"},
    {"plan"},
    {"claims"},
    {"cli"},
]
LEVEL = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports from, also inside functions."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "equipoise":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names if a.name in LEVEL}
        if isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("equipoise.")}
    return rooms


FILES = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py" or p.parent != ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    upward = {r for r in imports(path) if LEVEL[r] > LEVEL[room]}
    assert not upward, f"{name} (layer {LEVEL[room]}) imports from above: {upward}"


def test_every_room_has_a_layer() -> None:
    rooms = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in FILES}
    assert rooms == set(LEVEL)


def test_only_the_ray_engine_imports_ray_or_vllm() -> None:
    for path in FILES:
        if "engine/ray" in str(path):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert not any(n.split(".")[0] in ("ray", "vllm") for n in names), path


@pytest.mark.parametrize(
    "command",
    [
        "import equipoise",
        "main(['--help'])",
        "main(['methods', '--json'])",
        "main(['tasks', '--json'])",
        "main(['tasks', 'gcd'])",
    ],
)
def test_listing_loads_neither_torch_nor_transformers(command: str) -> None:
    code = f"import sys\nfrom equipoise.cli import main\n{command}\n"
    code += "heavy = {'torch', 'transformers', 'scipy', 'pyarrow', 'reasoning_gym', 'simpy'} & set(sys.modules)\n"
    code += "assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_recipes_fit_a_page() -> None:
    methods = [p for p in (ROOT / "recipes").glob("*.py") if p.name != "__init__.py"]
    long = {p.name: n for p in methods if (n := len(p.read_text().splitlines())) > 60}
    assert not long


def test_functions_are_short() -> None:
    long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.name} {size}")
    assert not long
