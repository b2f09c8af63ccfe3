"""What a dry run says of a step's cost: never less than any step comes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import toy
from equipoise import recipes
from equipoise.budget import Budget
from equipoise.job.costs import largest_step, smallest_step
from equipoise.types import Cost

UNITS = ("generated_tokens", "trained_tokens", "flops")
METHODS = [m for m in recipes.names() if m != "ifdecorator"]  # needs a check that the toy's verifier has not


@pytest.mark.parametrize("method", METHODS)
def test_no_step_costs_more_than_a_dry_run_says(method: str, tmp_path: Path) -> None:
    run = toy.loop(tmp_path / "run", method, Budget(flops=20_000.0), stop=lambda: run.at.step >= 8)
    task = toy.TASKS.get(method, toy.TASK)
    most = {
        stage.name: sum((largest_step(s, task, run.engine) for s in stage.streams), Cost())
        for stage in run.recipe.stages
    }
    run.run()
    before = dict.fromkeys(UNITS, 0.0)
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        now = {unit: line[f"spent/{unit}"] for unit in UNITS}
        for unit in UNITS if line.get("stage") in most else ():
            spent, bound = now[unit] - before[unit], getattr(most[line["stage"]], unit)
            assert spent <= bound, f"{line['stage']}: a step cost {spent:g} {unit}, a dry run says at most {bound:g}"
        before = now


def test_several_passes_and_rounds_by_hand() -> None:
    """Tokens of a step of 6 prompts x 6 samples of at most 3 tokens."""
    engine = toy.engine()

    def step(method: str, **arguments: object) -> tuple[int, int]:
        (stream,) = toy.recipe(method, **arguments).stages[0].streams
        most = largest_step(stream, toy.TASK, engine)
        return most.generated_tokens, most.trained_tokens

    assert step("grpo") == (108, 108)
    assert step("grpo", epochs=3, minibatches=2) == (108, 324)
    assert step("dapo", rounds=4) == (432, 108)
    assert step("motif", continuations=2) == (324, 108)
    (stream,) = toy.recipe("grpo").stages[0].streams
    assert smallest_step(stream, toy.TASK, engine).generated_tokens == 18
