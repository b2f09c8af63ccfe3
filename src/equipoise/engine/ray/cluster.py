"""Ray: a cluster started or joined, processes in it, and waits that end."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from equipoise.errors import ArgumentError, EquipoiseError, PeerLost

GRACE_S = 10.0  # to hear of the death that made others fail
Handle = Any  # of an actor
Ref = Any  # to a result
Named = Mapping[str, Ref]


class Cluster:
    """A connection to Ray. With no ``address`` a cluster of this machine alone, which ends with this process."""

    def __init__(self, address: str | None, processes: int, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        if ray.is_initialized():
            raise ArgumentError("this process is connected to Ray already; close the engine that is open first")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
            options |= {"num_cpus": processes, "include_dashboard": False, "_temp_dir": self._folder.name}
        else:
            options |= {"address": address}
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # every process here is asked for
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as cause:
            where = f"the Ray cluster at {address!r}" if address else "a Ray cluster on this machine"
            raise ArgumentError(
                f"--ray-address: could not connect to {where}: {cause}. Start one with `ray start --head`, or leave "
                "--ray-address out."
            ) from cause
        self._actors: dict[str, Handle] = {}

    def start(self, name: str, kind: type, *args: Any) -> Handle:
        """A process called ``name`` that holds an object of a class; it ends with the cluster's connection."""
        turns = {"turns": 2}  # methods that must be heard while a call is under way
        actor = ray.remote(num_cpus=1, max_restarts=0, concurrency_groups=turns)(kind)
        self._actors[name] = actor.remote(*args)
        return self._actors[name]

    def stop(self, name: str) -> None:
        if (actor := self._actors.pop(name, None)) is not None:
            ray.kill(actor)

    def close(self) -> None:
        """End all that was started."""
        for name in list(self._actors):
            self.stop(name)
        ray.shutdown()

    def wait(self, calls: Named, on_done: Callable[[str, Any], Named] = lambda name, result: {}) -> dict[str, Any]:
        """Results by the name of who gives them. ``on_done`` may add calls when one is done.

        The first failure is raised at once. Raises PeerLost, naming who died or was silent past the deadline."""
        names = {ref: name for name, ref in calls.items()}
        results: dict[str, Any] = {}
        end = time.monotonic() + self.deadline_s
        while names:
            done, _ = ray.wait(list(names), num_returns=1, timeout=max(end - time.monotonic(), 0))
            if not done:
                silent = ", ".join(sorted(set(names.values())))
                raise PeerLost(f"no answer from {silent} within {self.deadline_s:g} s")
            name = names.pop(done[0])
            results[name] = self._result(name, done[0], names)
            for more, ref in on_done(name, results[name]).items():
                names[ref] = more
                end = time.monotonic() + self.deadline_s
        return results

    def _result(self, name: str, ref: Ref, others: Mapping[Ref, str]) -> Any:
        try:
            return ray.get(ref, timeout=self.deadline_s)
        except ray.exceptions.RayActorError as gone:
            raise PeerLost(f"{name} died") from gone
        except ray.exceptions.RayTaskError as failed:
            if isinstance(failed.cause, EquipoiseError):
                raise failed.cause from None
            if dead := _dead(others):
                raise PeerLost(f"{dead} died") from failed
            raise RuntimeError(f"{name} failed: {failed.cause!r}") from failed


def _dead(calls: Mapping[Ref, str]) -> str | None:
    """Who of those still at work died: others fail because of it, and may be heard first."""
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=GRACE_S) if calls else ([], [])
    for ref in done:
        try:
            ray.get(ref)
        except ray.exceptions.RayActorError:
            return calls[ref]
        except ray.exceptions.RayTaskError:
            continue
    return None
