"""A task on the tabular engine, whose every expectation is exact, and runs of it in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise import recipes
from equipoise.budget import Budget, Ledger
from equipoise.engine.tabular import TabularEngine
from equipoise.record.folder import Folder
from equipoise.run.loop import Loop
from equipoise.types import Group, Note, Prompt, Response, Score, Task

PROMPTS = [Prompt(id=f"p{i}", text=str(i)) for i in range(6)]


def wanted(prompt: Prompt) -> str:
    """A right response begins with this token."""
    return str(1 + int(prompt.text or 0) % 3)


def verify(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
    scores = []
    for p, t in zip(prompts, texts, strict=True):
        right = t.startswith(wanted(p))
        scores.append(Score(float(right), "right" if right else "wrong", answer=t[:1] or None, parts={"one": 1.0}))
    return scores


def steps(prompt: Prompt, text: str) -> list[tuple[int, int, bool]]:
    """Each token is a step, right if it is the prompt's."""
    return [(2 * k, 2 * k + 1, token == wanted(prompt)) for k, token in enumerate(text.split())]


TASK = Task(
    "toy",
    "Begin with the right token.",
    {"train": PROMPTS, "validation": PROMPTS, "test": PROMPTS},
    3,
    "toy-1",
    verify=verify,
    demonstrate=lambda p: f"{wanted(p)} 1",
    steps=steps,
)

SIZES: Mapping[str, Any] = {"prompts": 6, "samples": 6, "lr": 1.0, "pairs": 6, "demonstrations": 6, "fit": 12}
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {  # of single methods, over SIZES
    "q_sharp": {"lr": 20.0, "fit": 6, "top": 0},  # a table has an entry for each prefix and token
    "bnpo": {"lr": 8.0},  # a narrow density makes advantages small
    "oreal": {"lr": 60.0, "warmup": 0.2},  # a head of its own for each prefix is learned slowly
    "copg": {"lr": 4.0},  # a log of the start policy, read four times
    "shiq": {"lr": 4.0},
    "dqo": {"lr": 4.0, "beta": 0.1},
    "bcpg_nsa": {"lr": 4.0},
    "a_star_po": {"lr": 4.0},
    "rrhf_code": {"rank": 10.0},
    "sparkle": {"first_share": 0.8, "probe_share": 0.05, "lr": 4.0},
    "hbpo": {"samples": 2, "budgets": (0.4, 0.7, 1.0), "sentence": "", "lr": 4.0},
    "per_step_dpo": {"parts": 1, "rollouts": 4, "beta": 1.0, "sft_share": 0.1, "lr": 8.0},
    "rlgf": {"guide_share": 0.2, "lr": 4.0},
    "brpo": {"samples": 4, "budgets": (0.4, 0.7), "ending": "", "summary": 2, "lr": 60.0},
    "score": {"instruction": "3", "progress": 2.0, "baseline": True, "lr": 6.0},
    "rise": {"feedback": "3", "best_of": 4, "lr": 0.3},
    "motif": {"template": "{} 3", "continuations": 2, "lr": 8.0},
    "canoe": {"separator": "", "low": 0.0, "high": 9.0, "lr": 8.0},
    "text2sql_rl": {"words": 0.0, "form": 0.0, "sft_share": 0.3},
    "lm_guided_cot": {"template": "{} 3", "lr": 4.0},
}


def stating(task: Task) -> Task:
    """The task with confidences: the second token of a reply, 1 to 3, is 0.1, 0.5 or 0.9."""

    def verify_with(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        assert task.verify is not None
        stated = [{"confidence": (0.1, 0.5, 0.9)[int(t.split()[1]) - 1]} if " " in t else {} for t in texts]
        scores = task.verify(prompts, texts)
        return [dataclasses.replace(s, parts={**s.parts, **q}) for s, q in zip(scores, stated, strict=True)]

    return dataclasses.replace(task, verify=verify_with)


GIVEN = [dataclasses.replace(p, text=f"{p.text} 3", meta={"context": "3"}) for p in PROMPTS]


def with_context(task: Task) -> Task:
    """The task with a token that is given before the response, and called its context."""
    first = lambda prompts: [dataclasses.replace(p, text=(p.text or "0").split()[0]) for p in prompts]  # noqa: E731
    judge = task.verify
    assert judge is not None
    splits = {"train": GIVEN, "validation": GIVEN, "test": GIVEN}
    return dataclasses.replace(task, splits=splits, verify=lambda prompts, texts: judge(first(prompts), texts))


def with_a_hole(task: Task) -> Task:
    """The task whose verifier takes the right token anywhere; the part "topic" says whether it comes first."""

    def verify_anywhere(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        assert task.verify is not None
        found = [wanted(p) in t.split() for p, t in zip(prompts, texts, strict=True)]
        strict = task.verify(prompts, texts)
        return [
            Score(float(ok), "right" if ok else "wrong", parts={"topic": s.value}, answer=s.answer)
            for ok, s in zip(found, strict, strict=True)
        ]

    return dataclasses.replace(task, verify=verify_anywhere)


TASKS: Mapping[str, Task] = {  # of methods that need another kind of task
    "rlcr": stating(TASK),
    "canoe": with_context(TASK),
    "ifdecorator": with_a_hole(TASK),
}
# Methods that read no label: from a uniform policy there is nothing to agree on, so shuffled rewards are no control.
# Prompts with a given token, which `success` does not read: tests/recipes/test_turns.py has its learning test.
WITH_CONTEXT = ("canoe",)
LABEL_FREE = ("empo", "em")  # their own controls: tests/recipes/test_self_signals.py


def copying() -> torch.Tensor:
    """Logits of a policy that says one token and ends, and after "a 3" says a again: who reads hints can be led."""
    made = TabularEngine(len(PROMPTS), 4, 4)
    logits = made.weights["logits"].detach().clone()
    for prefix, row in made.prefixes.items():
        if prefix:
            hint = prefix[0] if len(prefix) == 2 and prefix[1] == 3 else 0
            logits[:, row, hint] += 3.0
    return logits


ENGINES: Mapping[str, Mapping[str, Any]] = {  # of methods that need another engine
    "score": {"length": 4},  # room for two attempts and a word between
    "rise": {"length": 4},
    "motif": {"length": 4, "init": copying()},
    "canoe": {"length": 4},
    "lm_guided_cot": {"length": 4, "init": copying()},
}


def recipe(method: str, task: Task = TASK, **arguments: Any) -> Any:
    """A method's recipe in toy sizes."""
    known = recipes.method(method).arguments
    sizes = {k: v for k, v in SIZES.items() if k in known} | ARGUMENTS.get(method, {})
    return recipes.build(method, task, **sizes | arguments)


def engine(
    needs: frozenset[str] = frozenset(), optimiser: str = "sgd", length: int = 3, **arguments: Any
) -> TabularEngine:
    heads = [n.removeprefix("head:") for n in sorted(needs) if n.startswith("head:")]
    return TabularEngine(len(PROMPTS), 4, length, heads=heads, optimiser=optimiser, **arguments)


def loop(path: Path, method: str, budget: Budget, seed: int = 0, task: Task = TASK, **options: Any) -> Loop:
    """A loop in a new folder, not yet run. ``options``: of Loop; ``arguments``: of the recipe."""
    folder = Folder(path)
    folder.create()
    made = recipe(method, TASKS.get(method, TASK) if task is TASK else task, **options.pop("arguments", {}))
    ledger = Ledger(budget, file=(folder / "ledger.jsonl").open("a"))
    return Loop(
        made,
        options.pop("engine", None) or engine(made.needs, **ENGINES.get(method, {})),
        ledger,
        folder,
        seed,
        **options,
    )


def tested(run: Loop) -> TabularEngine:
    """The policy that is evaluated: as the recipe decodes it."""
    assert isinstance(run.engine, TabularEngine)
    return run.engine if run.recipe.adjust is None else run.engine.decoded(run.recipe.adjust)


def success(policy: TabularEngine, right: Callable[[Prompt, str], float] | None = None) -> float:
    """Exact pass rate, averaged over prompts."""
    judge = right or (lambda p, text: verify([p], [text])[0].value)
    rates = [float(policy.expected(p, lambda r, p=p: judge(p, r.text)).detach()) for p in PROMPTS]
    return float(np.mean(rates))


def shuffled(task: Task = TASK) -> Task:
    """The control: rewards of the same kind that say nothing about the response."""

    def random(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Score]:
        assert task.verify is not None
        scores = task.verify(prompts, texts)
        order = np.random.default_rng(len(scores)).permutation(len(scores))
        return [scores[i] for i in order]

    return dataclasses.replace(task, verify=random, demonstrate=lambda p: "3 1" if int(p.text or 0) % 2 else "1 2")


def response(ids: Sequence[int], **fields: Any) -> Response:
    n = len(ids)
    base: dict[str, Any] = {
        "logprobs": np.full(n, -1.0, dtype=np.float32),
        "trained": np.ones(n, dtype=bool),
        "segment": np.zeros(n, dtype=np.int32),
        "text": " ".join(map(str, ids)),
    }
    return Response(ids=np.array(ids, dtype=np.int64), **base | fields)


def group(rewards: Sequence[float], lengths: Sequence[int] | None = None, **notes: Note) -> Group:
    """A group with these rewards (right where above 0) and responses of token 1, ended."""
    lengths = lengths or [2] * len(rewards)
    responses = tuple(response([1] * (n - 1) + [0]) for n in lengths)
    scores = tuple(Score(r, "right" if r > 0 else "wrong") for r in rewards)
    return Group(dataclasses.replace(PROMPTS[0], ids=(0,)), responses, scores, notes)


def random_policy(seed: int, prompts: int = 1, vocabulary: int = 3, length: int = 2, **options: Any) -> TabularEngine:
    """A policy with random logits: no symmetry for a test to hide behind."""
    made = TabularEngine(prompts, vocabulary, length)
    init = torch.randn(made.weights["logits"].shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TabularEngine(prompts, vocabulary, length, init=init, **options)
