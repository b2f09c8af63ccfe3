"""Seconds of the pieces from a measured run of one learner and one sampler, to predict clusters of the same kind."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.errors import ArgumentError, RecordError, UnknownName
from equipoise.plan.cluster import LAUNCH, PUBLISH
from equipoise.plan.pipeline import Durations, Machine
from equipoise.plan.report import Outcome, outcome, simulated
from equipoise.plan.work import Draw
from equipoise.record.folder import Folder

WARM = 1  # first steps left out: caches are cold
LEAST = 3  # steps to fit to
DRAWN = ("trained", "silent", "dropped", "stored")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One step of a run, seconds."""

    step: int
    draw: Draw
    generate_s: float  # without publishing
    learn_s: float
    score_s: float  # verifiers and credit
    record_s: float
    publish_s: float


@dataclass(frozen=True)
class Fit:
    """Seconds as sums of what they grow with, each factor not negative."""

    run: str
    steps: int
    threads: int
    generate: dict[str, float]  # constant_s; token_step_s times the longest response; token_s times all tokens
    learn: dict[str, float]  # constant_s; token_s times the tokens that the learner reads
    score_s: float  # mean
    record_s: float  # mean
    publish_s: float  # mean; 0 where nothing is published, as by the local engine
    generate_error: float  # root mean square of the residuals, as a share of the mean
    learn_error: float

    def generate_s(self, share: Draw) -> float:
        if not len(share.lengths):
            return 0.0
        f = self.generate
        return f["constant_s"] + f["token_step_s"] * float(share.lengths.max()) + f["token_s"] * share.tokens

    def learn_s(self, step: Draw, ranks: int = 1) -> float:
        return self.learn["constant_s"] + self.learn["token_s"] * read(step) / ranks


def read(step: Draw) -> int:
    """Tokens that the learner reads."""
    return int((step.prompts + step.lengths)[step.trained].sum())


# -- the run ---------------------------------------------------------------------------------------------------------


def measured(run: Path) -> list[Measured]:
    """The steps of a run, without the first. Raises RecordError, and ArgumentError when it cannot be used."""
    folder = Folder(run)
    settings = folder.read_toml("run.toml")
    cluster = {**settings, **settings.get("cluster", {})}
    for name, wanted in (("learners", 1), ("samplers", 1), ("ahead", 0)):
        if (got := cluster.get(name, wanted)) != wanted:
            raise ArgumentError(f"{run} was run with {name} {got}; calibration needs 1 learner, 1 sampler and ahead 0")
    lines = [line for line in folder.lines("timings.jsonl") if "generate_s" in line and "train_s" in line]
    if len(lines) < WARM + LEAST:
        raise ArgumentError(
            f"{run} has {len(lines)} steps with timings; calibration needs {WARM + LEAST}. Let it run longer."
        )
    return [_step(folder, line) for line in lines[WARM:]]


def _step(folder: Folder, line: dict[str, Any]) -> Measured:
    step, known = int(line["step"]), {"credit_s": 0.0, "score_s": 0.0, "record_s": 0.0, "published_s": 0.0, **line}
    score_s, publish_s = known["score_s"] + known["credit_s"], known["published_s"]
    generate_s = max(line["generate_s"] - publish_s, 0.0)  # weights are published when they are first sampled from
    return Measured(step, _drawn(folder, step), generate_s, line["train_s"], score_s, known["record_s"], publish_s)


def _drawn(folder: Folder, step: int) -> Draw:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    paths = sorted((folder / "rollouts").glob("step-*.parquet"))
    found = [path for path in paths if int(path.stem.split("-")[1]) == step]
    try:
        rows = pa.concat_tables(pq.read_table(p, columns=["group", "ids", "prompt_ids", "use"]) for p in found)
    except (pa.ArrowException, OSError) as e:
        raise RecordError(f"the rollouts of step {step} of {folder.path} cannot be read: {e}") from e
    rows = rows.filter(pc.is_in(rows["use"], value_set=pa.array(DRAWN)))
    lengths, prompts = (pc.list_value_length(rows[name]).to_numpy().astype(np.int64) for name in ("ids", "prompt_ids"))
    trained = np.array([use == "trained" for use in rows["use"].to_pylist()], dtype=bool)
    return Draw(lengths, prompts, rows["group"].to_numpy().astype(np.int64), trained)


# -- the fit ---------------------------------------------------------------------------------------------------------


def fit(run: Path, steps: Sequence[Measured]) -> Fit:
    """Least squares with factors that are not negative."""
    one = np.ones(len(steps))
    longest = np.array([s.draw.lengths.max() for s in steps], dtype=float)
    tokens = np.array([s.draw.tokens for s in steps], dtype=float)
    learned = np.array([read(s.draw) for s in steps], dtype=float)
    generate, generate_error = _solve(np.stack([one, longest, tokens], 1), np.array([s.generate_s for s in steps]))
    learn, learn_error = _solve(np.stack([one, learned], 1), np.array([s.learn_s for s in steps]))
    resolved = Folder(run).read_toml("run.toml").get("resolved", {})
    return Fit(
        run=run.name,
        steps=len(steps),
        threads=int(resolved.get("threads", 1)),
        generate=dict(zip(("constant_s", "token_step_s", "token_s"), generate, strict=True)),
        learn=dict(zip(("constant_s", "token_s"), learn, strict=True)),
        score_s=float(np.mean([s.score_s for s in steps])),
        record_s=float(np.mean([s.record_s for s in steps])),
        publish_s=float(np.mean([s.publish_s for s in steps])),
        generate_error=generate_error,
        learn_error=learn_error,
    )


def _solve(columns: Floats, seconds: Floats) -> tuple[list[float], float]:
    from scipy.optimize import nnls

    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    factors = nnls(columns / scale, seconds)[0] / scale
    error = np.sqrt(np.mean((columns @ factors - seconds) ** 2)) / max(float(seconds.mean()), 1e-12)
    return [float(f) for f in factors], float(error)


# -- the prediction --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What is predicted: a cluster of the processes that were measured."""

    learners: int = 1
    samplers: int = 1
    ahead: int = 0
    cores: int | None = None  # of the one machine that all share; None: nobody waits for a core
    exchange_s: float = 0.0  # a step, that ranks wait for each other's weights and gradients; one rank cannot show it
    publish: str = "held"
    launch: str = "driver"

    def __post_init__(self) -> None:
        least = {"learners": 1, "samplers": 1, "ahead": 0, "cores": 1, "exchange_s": 0.0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value < math.inf:
                raise ArgumentError(f"{name} is {value!r}; expected at least {smallest:g}")
        for name, known in (("publish", PUBLISH), ("launch", LAUNCH)):
            if getattr(self, name) not in known:
                raise UnknownName(f"way to {name}", getattr(self, name), known)


def predict(f: Fit, steps: Sequence[Measured], target: Target) -> Outcome:
    """The run's own steps, again and again, on another cluster: each measured time, scaled as the fit says."""
    count = simulated(target.ahead + 1, len(steps))
    played = [steps[i % len(steps)] for i in range(count)]
    generate = []
    for s in played:
        whole = max(f.generate_s(s.draw), 1e-12)
        parts = s.draw.shares(target.samplers) if target.samplers > 1 else [s.draw]
        generate.append([s.generate_s * f.generate_s(part) / whole for part in parts])
    more = target.exchange_s if target.learners > 1 else 0.0
    ratios = [f.learn_s(s.draw, target.learners) / max(f.learn_s(s.draw), 1e-12) for s in played]
    d = Durations(
        generate=np.array(generate),
        learn=np.array([s.learn_s * ratio + more for s, ratio in zip(played, ratios, strict=True)]),
        score=np.array([s.score_s for s in played]),
        record=np.array([s.record_s for s in played]),
        send_s=f.publish_s / 2,  # half to leave the learners, half to enter a sampler
        swap_s=f.publish_s / 2,
        held=target.publish == "held",
        driver=target.launch == "driver",
    )
    threads = f.threads, f.threads * target.learners
    machine = Machine(target.cores, *threads) if target.cores is not None else None
    draws = [s.draw for s in played]
    return outcome(d, draws, target.ahead, len(steps), machine, (target.learners, 1))


def document(f: Fit, target: Target, o: Outcome) -> dict[str, Any]:
    """Fit and prediction, as JSON holds them."""
    found: dict[str, Any] = json.loads(json.dumps({"fit": asdict(f), "target": asdict(target), "predicted": o.json()}))
    return found
