"""What all tables share: a cell is a process of one side, and says in a line of JSON what it measured."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parent
TRL = Path(os.environ.get("EQUIPOISE_TRL_PYTHON", ROOT / ".venv-trl" / "bin" / "python"))
MODELS = ROOT / "build" / "bench-models"
LIMIT_S = 3600  # of one cell
NAN = float("nan")
Cell = dict[str, Any]
console = Console(highlight=False, width=None if os.isatty(1) else 150)


def cell(python: Path | str, script: str, work: str, threads: int) -> Cell:
    """One side's run of a workload. What it could not do is a cell with ``error``."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), str(HERE / script), work]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {LIMIT_S} s"}
    if done.returncode:
        return {"error": (done.stderr or done.stdout).strip()[-1000:]}
    found: Cell = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def median(found: Cell | None, name: str) -> float:
    return statistics.median(found[name]) if found and found.get(name) else NAN


def best(cells: Mapping[str, Cell]) -> tuple[str, Cell] | tuple[None, None]:
    """The setting with the shortest step, of those that ran."""
    done = {name: found for name, found in cells.items() if "error" not in found}
    return min(done.items(), key=lambda item: median(item[1], "step_s")) if done else (None, None)


def tell(where: str, found: Cell) -> Cell:
    """Say how a cell went, and pass it on."""
    console.print(f"{where}: " + (f"failed: {found['error']}" if "error" in found else _seconds(found)), markup=False)
    return found


def _seconds(found: Cell) -> str:
    return f"{median(found, 'step_s'):.3f} s a step, median of {len(found['step_s'])}"


def number(value: float, form: str) -> str:
    """``value`` as the table shows it; "-" for what was not measured."""
    return "-" if value != value else format(value, form)


def times(value: float) -> str:
    return "-" if value != value else f"{value:.1f}x"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console.print(f"\n{title}", markup=False)
    shown = Table()
    for k, column in enumerate(columns):
        shown.add_column(column, justify="right" if k else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(shown, markup=False)


def arguments(
    about: str | None,
    name: str,
    more: Callable[[argparse.ArgumentParser], object],
    against: bool = True,
    needs_trl: bool = True,
) -> argparse.Namespace:
    """Of a table's command line: ``--quick``, ``--out``, its own, and ``--no-trl`` where it is ``against`` TRL
    (which ``needs_trl`` to be there, unless that was given)."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    more(parser)
    parser.add_argument(
        "--quick", action="store_true", help="the least that shows it runs, on one thread; its figures mean nothing"
    )
    if against:
        parser.add_argument("--no-trl", action="store_true", help="Equipoise alone")
    parser.add_argument("--out", type=Path, help=f"default: benchmarks/results/{name}.json, {name}-quick.json if quick")
    asked = parser.parse_args()
    asked.out = asked.out or HERE / "results" / f"{name}{'-quick' if asked.quick else ''}.json"
    if against and needs_trl and not asked.no_trl and not TRL.exists():
        raise SystemExit(f"{TRL} is missing: `make bench` makes it, or leave TRL out with --no-trl")
    if asked.quick:
        console.print(
            "quick: the tiny model, small work, one thread, whatever the tables say; no figure means anything"
        )
    return asked


def keep(out: Path, results: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**results, "date": datetime.now(UTC).date().isoformat()}, indent=1) + "\n")
