"""Every method learns on `tiny`, or is listed as one that did not: `make test-learning` writes docs/learning.md.

Each method trains on a task that suits it, and again where verdicts and demonstrations say nothing, three seeds each.
It passes when its score is more than three standard errors above the control's. Runs that are done are kept in OUT:
the same command goes on where it stopped. The page is made from what is there; nothing in it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, variance
from typing import Any

from equipoise import recipes, tasks
from equipoise.errors import EquipoiseError
from equipoise.keys import Key
from equipoise.types import Group, Prompt, Reply, Score, Task

ROOT = Path(__file__).resolve().parents[1]
PAGE, OUT = ROOT / "docs" / "learning.md", ROOT / "runs" / "learning"
SEEDS, ERRORS, LEAST = 3, 3.0, 0.01  # runs an arm; standard errors and difference that a pass takes more than
ITEMS, SAMPLES, FLOPS = 100, 4, 3e10
MEMORY = 512  # verdicts that a control draws from


@dataclass(frozen=True)
class Case:
    """What a method is tried on. ``times``: the budget of others, where it has a stage before it learns or learns
    slowly. ``score``: "pass@1" of held-out items, or "agreement" of two samples, for methods
    without labels; ``control``: "shuffled", or "start" for a method that reads nothing that could be shuffled."""

    task: str = "lists"
    knobs: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    score: str = "pass@1"
    control: str = "shuffled"
    times: float = 1.0


CASES: Mapping[str, Case] = {  # of methods that need another task, control or budget
    "a_star_po": Case(times=4),
    "bcpg_nsa": Case("addition", {"difficulty": 2}),
    "brpo": Case("addition", {"difficulty": 2}),
    "canoe": Case("facts", arguments={"warm": 0.3}, times=20),
    "em": Case(score="agreement", control="start"),
    "empo": Case(score="agreement"),
    "hbpo": Case("addition", {"difficulty": 2}, {"sentence": ""}, times=4),
    "ifdecorator": Case("mentioned:lists", arguments={"checks": ["intent"]}, times=2),
    "interleaved": Case("addition", {"difficulty": 2}),
    "logic_rl": Case("knights"),
    "per_step_dpo": Case("addition", {"difficulty": 2}),
    "one_shot_rlvr": Case(times=4),
    "pf_ppo": Case(times=4),
    "q_sharp": Case("addition", {"difficulty": 2}, {"fit": 4, "eta": 0.1}, times=8),
    "rise": Case("again:lists"),
    "rlcr": Case("confident:lists", arguments={"warm": 0.4, "demonstrations": 8}, times=10),
    "score": Case("again:lists", arguments={"prompts": 4, "baseline": True}, times=10),
    "text2sql_rl": Case("sql", arguments={"demonstrations": 4}, times=20),
}


@dataclass(frozen=True)
class Run:
    """One run to be made: ``seed`` of ``method``, real or control."""

    method: str
    arm: str  # "real" or "control"
    seed: int
    flops: float

    @property
    def case(self) -> Case:
        return CASES.get(self.method, Case())


def shuffled(task: Task, seed: int) -> Task:
    """The control: each verdict is one of the last few hundred, drawn at random; demonstrations are of other prompts,
    steps are right at random."""
    rng, seen, shown = random.Random(seed), list[Score](), task.splits["train"]

    def verify(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        assert task.verify is not None
        seen.extend(task.verify(prompts, texts))
        del seen[:-MEMORY]
        return rng.choices(seen, k=len(texts))

    def demonstrate(prompt: Prompt) -> Reply | None:
        other = shown[Key(("shuffled", seed, prompt.id)).integer(len(shown))]
        return task.demonstrate(other) if task.demonstrate else None

    def steps(prompt: Prompt, text: str) -> list[tuple[int, int, bool]]:
        found = task.steps(prompt, text) if task.steps else ()
        return [(a, b, Key((seed, prompt.id, text, a)).uniform() < 0.5) for a, b, _ in found]

    return replace(
        task,
        verify=verify if task.verify else None,
        demonstrate=demonstrate if task.demonstrate else None,
        steps=steps if task.steps else None,
        pair=None,
    )


def done(run: Run) -> dict[str, Any]:
    """The run's score, or why it has none."""
    begun = time.monotonic()
    try:
        outcome: dict[str, Any] = {"score": _score(run)}
    except (EquipoiseError, ArithmeticError, LookupError, ValueError, RuntimeError) as error:  # one method's failure
        outcome = {"error": f"{type(error).__name__}: {error}"}
    return {**asdict(run), **outcome, "seconds": round(time.monotonic() - begun, 1)}


def _score(run: Run) -> float:
    from equipoise.budget import Budget, Ledger
    from equipoise.engine.local import deterministic, load
    from equipoise.evaluate import evaluate
    from equipoise.record.folder import Folder
    from equipoise.run.loop import Loop

    deterministic(1)
    case = run.case
    task = tasks.load(case.task, **case.knobs)
    try:
        control = run.arm == "control"
        told = shuffled(task, run.seed) if control and case.control == "shuffled" else task
        recipe = recipes.build(run.method, told, **case.arguments)
        engine = load("tiny", device="cpu", seed=run.seed, heads=recipe.heads)
        if not (control and case.control == "start"):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Folder(Path(scratch) / "run")
                folder.create()
                with (folder / "ledger.jsonl").open("a") as file:
                    ledger = Ledger(Budget(flops=run.flops * case.times), file=file)
                    Loop(recipe, engine, ledger, folder, run.seed, checkpoint_s=math.inf).run()
        found = evaluate(engine, task, "test", ITEMS, SAMPLES, Key((run.seed, "learning")), adjust=recipe.adjust)
        return agreement(found.groups) if case.score == "agreement" else found.metrics["pass@1"].value
    finally:
        if task.close is not None:
            task.close()


def agreement(groups: Iterable[Group]) -> float:
    """Chance that two samples to a prompt have the same answer, without replacement; no answer agrees with nothing."""
    rates = []
    for group in groups:
        votes = Counter(s.answer for s in group.scores if s.answer is not None)
        n = len(group.scores)
        rates.append(sum(v * (v - 1) for v in votes.values()) / (n * (n - 1)))
    return mean(rates)


# -- the page ------------------------------------------------------------------------------------------------------


def verdict(real: Sequence[float], control: Sequence[float]) -> tuple[float, bool]:
    """The difference of the means in standard errors, and whether it passes. Equal runs have an error of 0."""
    gap = mean(real) - mean(control)
    error = math.sqrt(variance(real) / len(real) + variance(control) / len(control))
    return (gap / error if error else math.copysign(math.inf, gap) if gap else 0.0), gap > max(ERRORS * error, LEAST)


def row(method: str, results: Sequence[Mapping[str, Any]]) -> str:
    """A method's line of the table."""
    case = CASES.get(method, Case())
    where = f"{case.task}{''.join(f' {k}={v}' for k, v in case.knobs.items())}{f', x{case.times:g}' * (case.times > 1)}"
    if errors := [r["error"] for r in results if "error" in r]:
        return f"| `{method}` | {where} | {case.score} | | | | **no**: {errors[0].splitlines()[0].replace('|', '/')} |"
    scores = {arm: [r["score"] for r in results if r["arm"] == arm] for arm in ("real", "control")}
    if any(len(x) < SEEDS for x in scores.values()):
        return f"| `{method}` | {where} | {case.score} | | | | not run: {len(results)} of {2 * SEEDS} runs |"
    errors_apart, passed = verdict(scores["real"], scores["control"])
    values = f"{mean(scores['real']):.3f} | {mean(scores['control']):.3f} ({case.control}) | {errors_apart:.1f}"
    return f"| `{method}` | {where} | {case.score} | {values} | {'yes' if passed else '**no**'} |"


def page(methods: Sequence[str], results: Sequence[Mapping[str, Any]], flops: float) -> str:
    """The whole page as Markdown."""
    own = {m: [r for r in results if r["method"] == m] for m in methods}
    rows = [row(m, own[m]) for m in methods]
    passed = sum(r.endswith("| yes |") for r in rows)
    return "\n".join(
        [
            "# Learning",
            "",
            "Made by `make test-learning` (`python scripts/learning.py`); nothing here is written by hand.",
            "",
            f"Each method trains `tiny` with {flops:g} FLOPs (x4: four times as many) on a task that suits it, with",
            f"{SEEDS} seeds, and again as a control in which verdicts are drawn at random from earlier ones,",
            'demonstrations belong to other prompts and steps are right at random ("shuffled"). A method that reads no',
            'label is compared with the start policy ("start"). Score: pass@1 (of last attempts), or agreement of two',
            f"samples, on {ITEMS} held-out items x {SAMPLES} samples. A method passes when it is more than {ERRORS:g}",
            f"standard errors and {LEAST:g} above its control; with so few seeds it ranks nothing.",
            "Methods with a budget above x1 did not pass at x1 with their default arguments; both arms were given",
            "the settings that their claims use, and more to spend (`CASES` in the script).",
            "",
            f"{passed} of {len(methods)} methods passed; {sum(r['seconds'] for r in results) / 60:.0f} minutes of one "
            "core's runs.",
            "",
            "| method | task | score | trained | control | standard errors | passed |",
            "|-|-|-|-|-|-|-|",
            *rows,
            "",
        ]
    )


# -- the command ---------------------------------------------------------------------------------------------------


def known(path: Path) -> list[dict[str, Any]]:
    """Results so far; a last line that was cut short is no result."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def run_all(missing: Sequence[Run], jobs: int, minutes: float, keep: Callable[[dict[str, Any]], None]) -> None:
    """Make the runs, ``jobs`` at a time, and keep each result; none is begun after so many minutes."""
    end, waiting = time.monotonic() + 60 * minutes, list(reversed(missing))
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, spawn) as pool:
        going = {pool.submit(done, waiting.pop()) for _ in range(min(jobs, len(waiting)))}
        while going:
            ready, going = wait(going, timeout=600, return_when="FIRST_COMPLETED")
            for future in ready:
                keep(future.result())
                if waiting and time.monotonic() < end:
                    going.add(pool.submit(done, waiting.pop()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: all, which alone writes the page")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60, help="no run is begun after these")
    parser.add_argument("--flops", type=float, default=FLOPS, help="of a run")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    methods = options.methods or recipes.names()
    for name in methods:
        recipes.method(name)  # misspelt names are told before anything runs
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    results = [r for r in known(path) if r["flops"] == options.flops and r["method"] in methods]
    made = {(r["method"], r["arm"], r["seed"]) for r in results}
    every = [Run(m, arm, s, options.flops) for m in methods for arm in ("real", "control") for s in range(SEEDS)]

    def keep(result: dict[str, Any]) -> None:
        results.append(result)
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(*(result.get(k) for k in ("method", "arm", "seed", "score", "error", "seconds")), flush=True)

    run_all([r for r in every if (r.method, r.arm, r.seed) not in made], options.jobs, options.minutes, keep)
    text = page(methods, results, options.flops)
    if options.methods:
        print(text)
    else:
        PAGE.write_text(text)
    return 0 if text.count("| yes |") == len(methods) else 1


if __name__ == "__main__":
    raise SystemExit(main())
