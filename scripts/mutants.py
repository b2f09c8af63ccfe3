"""Break each invariant of the design by one line, and see the named test fail.

`make mutants` prints a table and writes docs/mutants.md; it fails when a mutant survives. `--only N` runs one of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 240
INVARIANTS = {
    1: "the same gradient for any split, packing and order",
    2: "sampler and learner agree on log-probs",
    3: "no advantage, no gradient; KL to the start is exactly 0 at first",
    4: "killed and resumed is bit-identical",
    5: "no budget is exceeded; everything is charged once",
    6: "metrics can be recomputed from the rollouts",
    7: "a failure of the verifier is never a reward of 0",
    8: "imports point one way; listing loads nothing heavy",
    9: "model/ opens in transformers and says the same",
    10: "a contradiction is an error, nothing is rewritten",
}


@dataclass(frozen=True)
class Mutant:
    """One line changed, and the test that must notice. ``old`` and ``new`` are whole lines, without indentation."""

    invariant: int
    file: str  # in src/equipoise
    old: str
    new: str
    test: str  # in tests


MUTANTS = [
    Mutant(
        1,
        "engine/local/rows.py",
        "segment.flat[column:end], parent.flat[column:end] = run.number, run.parent",
        "segment.flat[column:end], parent.flat[column:end] = 0, run.parent",
        "engine/test_local_packing.py::test_packs_and_every_layout_equals_single_rows[llama]",
    ),
    Mutant(
        1,
        "engine/local/learner.py",
        "places = [torch.argsort(order)[start:end] for start, end in zip([0, *ends], ends, strict=False)]",
        "places = [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]",
        "engine/test_local_gradient.py::test_two_passes_equal_one",
    ),
    Mutant(
        1,
        "parts/objectives/over.py",
        "return batch.per_group(sums) / max(batch.totals.tokens, 1)",
        "return batch.per_group(sums) / max(len(per_token), 1)",
        "parts/test_objectives.py::test_denominators_by_hand",
    ),
    Mutant(
        2,
        "engine/local/network.py",
        "z = z if temperature is None else z / temperature[:, None]",
        "z = z * 1.0",
        "engine/test_local_gradient.py::test_temperature_is_part_of_the_policy",
    ),
    Mutant(
        2,
        "engine/local/rows.py",
        "read[item[k - 1]] = np.where(places == 0, last, b * length + column + places - 1)",
        "read[item[k - 1]] = np.where(places == 0, last, b * length + column + places)",
        "engine/test_local_sampler.py::test_recorded_log_probs_are_the_learners",
    ),
    Mutant(
        3,
        "parts/credit/baselines.py",
        "if len(known) == 0 or known.max() == known.min():  # exact: no float noise where nothing differs",
        "if len(known) == 0:",
        "parts/test_credit.py::test_equal_rewards_give_exactly_zero",
    ),
    Mutant(
        3,
        "parts/objectives/divergence.py",
        'return 0.5 * x**2 if estimator == "k2" else (-x).exp() - 1 + x',
        'return 0.5 * x**2 if estimator == "k2" else (-x).exp() + x',
        "parts/test_objectives.py::test_k3_is_zero_where_policies_agree_and_never_negative",
    ),
    Mutant(
        4,
        "run/loop.py",
        "self.folder.rewind(self.at.step)",
        "self.folder.rewind(self.at.step + 1)",
        "test_loop.py::test_killed_anywhere_and_resumed_is_bit_identical[grpo]",
    ),
    Mutant(
        4,
        "run/loop.py",
        'self.at = Progress(**state["progress"])',
        'self.at = Progress(**state["progress"] | {"evaluated": 0, "begun": 0.5})',
        "test_loop.py::test_killed_anywhere_and_resumed_is_bit_identical[tulu3]",
    ),
    Mutant(
        5,
        "budget.py",
        "if any(have[u] + wanted[u] > ceiling * limit for u, limit in limits.items()):",
        "if any(have[u] > ceiling * limit for u, limit in limits.items()):",
        "test_budget.py::test_no_method_exceeds_a_budget_and_what_was_spent_was_charged[generated_tokens-grpo]",
    ),
    Mutant(
        5,
        "budget.py",
        'reserved = self.by.pop("reserved", Cost())',
        'reserved = self.by.get("reserved", Cost())',
        "test_budget.py::test_reserving_takes_the_longest_prefix_that_fits_and_settling_gives_back",
    ),
    Mutant(
        6,
        "record/rollouts.py",
        "learner = note.values[i]",
        "learner = None",
        "test_loop.py::test_groups_survive_the_round_trip_through_parquet",
    ),
    Mutant(
        6,
        "record/rollouts.py",
        '"value": s.value,',
        '"value": 1.0,',
        "test_loop.py::test_metrics_can_be_recomputed_from_the_stored_rollouts",
    ),
    Mutant(
        7,
        "parts/credit/groups.py",
        "live = np.array([s.status not in FAILED for s in group.scores])",
        "live = np.array([True for s in group.scores])",
        "parts/test_credit.py::test_failed_verdicts_leave_the_statistics",
    ),
    Mutant(
        7,
        "verify/__init__.py",
        "if failures < least or failures <= share * seen:",
        "if failures < least or failures <= seen:",
        "test_loop.py::test_failed_verdicts_stop_the_run_and_are_no_reward_of_zero",
    ),
    Mutant(
        8,
        "parts/credit/baselines.py",
        'return pooled("center", pool, lambda r, live, a: _centred(r, live), ["scores"])',
        "import equipoise.run.loop",
        "test_architecture.py::test_imports_point_one_way[parts/credit/baselines.py]",
    ),
    Mutant(
        8,
        "recipes/__init__.py",
        "import pkgutil",
        "import pkgutil, torch",
        "test_architecture.py::test_listing_loads_neither_torch_nor_transformers",
    ),
    Mutant(
        9,
        "engine/local/adaptation.py",
        "copy.deepcopy(wrapper).merge_and_unload().save_pretrained(folder)",
        "copy.deepcopy(wrapper).unload().save_pretrained(folder)",
        "engine/test_local_state.py::test_an_exported_folder_opens_with_transformers_and_says_the_same",
    ),
    Mutant(
        10,
        "job/job.py",
        "if unit not in recipe.spends:",
        "if False:",
        "test_cli.py::test_budgets_that_cannot_be[sft --budget.generated-tokens 10k]",
    ),
    Mutant(
        10,
        "job/job.py",
        "if s.eval.points * share > 0.9:",
        "if False:",
        "test_cli.py::test_budgets_that_cannot_be[grpo --budget.generated-tokens 4k --eval.points 5]",
    ),
]


def patched(tree: Path, mutant: Mutant) -> Path:
    """Change the line; the file. Raises SystemExit when it is not there exactly once: then the table is out of date."""
    path = tree / "src" / "equipoise" / mutant.file
    lines = path.read_text().split("\n")
    places = [i for i, line in enumerate(lines) if line.strip() == mutant.old]
    if len(places) != 1:
        raise SystemExit(f"{mutant.file}: {len(places)} lines say {mutant.old!r}, expected exactly one")
    line = lines[places[0]]
    lines[places[0]] = line[: len(line) - len(line.lstrip())] + mutant.new
    path.write_text("\n".join(lines))
    return path


def passes(tree: Path, test: str) -> bool:
    """Whether the test passes on the copy's source; a test that takes too long has failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{test}"]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode and "\nFAILED " not in done.stdout:  # no verdict: no such test, or pytest itself broke
        raise SystemExit(f"{test} could not be run:\n{done.stdout}\n{done.stderr}")
    return done.returncode == 0


def copied(into: Path) -> Path:
    """Source and tests in a folder of their own; checked to be what Python imports there."""
    for name in ("src", "tests", "scripts"):
        shutil.copytree(ROOT / name, into / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", into)
    code = "import equipoise; print(equipoise.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(into / "src")}
    found = subprocess.run([sys.executable, "-c", code], cwd=into, env=environment, capture_output=True, text=True)
    if Path(found.stdout.strip()).parent != into / "src" / "equipoise":
        raise SystemExit(f"the copy is not what is imported, but {found.stdout}{found.stderr}")
    return into


def outcome(mutant: Mutant, tree: Path, sound: dict[str, bool]) -> str:
    """killed, survived, or a test that fails without the mutant."""
    path = tree / "src" / "equipoise" / mutant.file
    before = path.read_bytes()
    if mutant.test not in sound:
        sound[mutant.test] = passes(tree, mutant.test)
    if not sound[mutant.test]:
        return "test fails without it"
    patched(tree, mutant)
    try:
        return "survived" if passes(tree, mutant.test) else "killed"
    finally:
        path.write_bytes(before)


def page(rows: list[tuple[Mutant, str]]) -> str:
    """docs/mutants.md"""
    lines = [
        "# Mutants",
        "",
        "Written by `make mutants`. Each row changes one line of a copy of the source; the test passes before and must "
        "fail after.",
        "",
        "| invariant | file | line | becomes | test that fails | outcome |",
        "|---|---|---|---|---|---|",
    ]
    for m, result in rows:
        test = m.test.split("::")
        old, new = (x.replace("|", "\\|") for x in (m.old, m.new))
        cells = [f"{m.invariant}. {INVARIANTS[m.invariant]}", m.file, f"`{old}`", f"`{new}`"]
        lines.append(f"| {' | '.join(cells)} | {test[0]}: `{test[1]}` | {result} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", type=int, metavar="N", help="the N-th mutant alone, from 1; writes no page")
    only = parser.parse_args().only
    chosen = MUTANTS if only is None else [MUTANTS[only - 1]]
    started, rows, sound = time.monotonic(), [], dict[str, bool]()
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder).resolve())
        for mutant in track(chosen, "mutants", console=Console(stderr=True)):
            rows.append((mutant, outcome(mutant, tree, sound)))
    table = Table("invariant", "file", "line becomes", "test", "outcome", title=f"{time.monotonic() - started:.0f} s")
    for m, result in rows:
        table.add_row(f"{m.invariant}. {INVARIANTS[m.invariant]}", m.file, m.new, m.test.split("::")[1], result)
    Console().print(table, markup=False)
    if only is None:
        (ROOT / "docs" / "mutants.md").write_text(page(rows))
    return int(any(result != "killed" for _, result in rows))


if __name__ == "__main__":
    sys.exit(main())
