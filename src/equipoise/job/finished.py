"""A finished run, opened to be evaluated as its method decodes."""

from __future__ import annotations

from pathlib import Path

from equipoise import recipes
from equipoise.errors import RecordError
from equipoise.job.job import saved
from equipoise.protocols import Engine
from equipoise.record import checkpoint
from equipoise.record.folder import Folder
from equipoise.types import Adjust, Task


def opened(folder: Path, task: Task, device: str = "auto", dtype: str = "auto") -> tuple[Engine, Adjust | None]:
    """The trained model of the run in ``folder``, and how its method decodes it on ``task``: None is plainly.

    A decoder that reads heads gets them as the last checkpoint left them, for the exported model has none. Raises
    RecordError for a run that has not ended or lost its checkpoints, and what loading a model raises.
    """
    from equipoise.engine.local import load

    if not Folder(folder).finished:
        raise RecordError(f"{folder} is not finished; go on with: equipoise resume {folder}")
    s = saved(folder)
    recipe = recipes.build(s.method, task, **s.arguments) if _adjusts(folder) else None
    adjust = recipe.adjust if recipe else None
    if recipe is None or adjust is None or not adjust.needs:
        return load(str(folder / "model"), device=device, dtype=dtype), adjust
    engine = load(s.model, device=device, dtype=dtype, lora_rank=s.lora_rank, seed=s.seed, heads=recipe.heads)
    engine.load(checkpoint.newest(folder / "checkpoints") / "engine")
    return engine, adjust


def _adjusts(folder: Path) -> bool:
    """Whether the run's method adjusts the logits that it is evaluated by. Told by the run's own record, so that a
    method which does not may be evaluated on a task that it could not be trained on."""
    decoder: str = Folder(folder).read_toml("run.toml")["resolved"].get("decoder", "plain")
    return decoder != "plain"
