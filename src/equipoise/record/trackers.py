"""Experiment trackers as optional extras. One that fails is switched off with a warning; a run never stops for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from equipoise.errors import MissingExtra, UnknownName

Track = Callable[[Mapping[str, float], int], None]
NAMES = ("tensorboard", "wandb", "trackio")


def tracker(name: str | None) -> None:
    """Raises UnknownName for a tracker that there is not."""
    if name is not None and name not in NAMES:
        raise UnknownName("tracker", name, NAMES)


def open_tracker(name: str | None, run: str, folder: Path, settings: Mapping[str, Any]) -> Track:
    """A function that logs numbers at a step. Raises MissingExtra when the tracker's package is not installed."""
    if name is None:
        return lambda numbers, step: None
    tracker(name)
    try:
        send = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}[name](run, folder, settings)
    except ImportError as e:
        raise MissingExtra(name, f"pip install 'equipoise[{name}]'") from e
    except Exception as e:  # noqa: BLE001 - named boundary: somebody else's service
        warnings.warn(f"{name} did not start and is off: {e}", stacklevel=2)
        return lambda numbers, step: None
    return _guarded(name, send)


def _guarded(name: str, send: Track) -> Track:
    failed = False

    def track(numbers: Mapping[str, float], step: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            send(numbers, step)
        except Exception as e:  # noqa: BLE001 - named boundary: somebody else's service
            failed = True
            warnings.warn(f"{name} failed at step {step} and is off from here; the run goes on: {e}", stacklevel=2)

    return track


def _tensorboard(run: str, folder: Path, settings: Mapping[str, Any]) -> Track:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def send(numbers: Mapping[str, float], step: int) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return send


def _wandb(run: str, folder: Path, settings: Mapping[str, Any]) -> Track:
    import wandb

    handle = wandb.init(project="equipoise", name=run, dir=str(folder), config=dict(settings), resume="allow", id=run)
    return lambda numbers, step: handle.log(dict(numbers), step=step)


def _trackio(run: str, folder: Path, settings: Mapping[str, Any]) -> Track:
    import trackio

    trackio.init(project="equipoise", name=run, config=dict(settings), resume="allow")
    return lambda numbers, step: trackio.log(dict(numbers), step=step)
