"""Ray: a cluster started or joined, processes in it, and waits that end."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ray
from equipoise.engine.ray import guard
from equipoise.errors import ArgumentError, EquipoiseError, PeerLost
from ray import exceptions as failures

OPENING_S = 300.0  # at least, for a process to load its libraries and open a model
GRACE_S = 10.0  # to hear of the death that made others fail, and from those that are alive
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anyone
    "RAY_prestart_worker_first_driver": "0",  # every process here is asked for
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first failure is raised; those that follow from it need no mention
    "RAY_worker_niceness": "0",  # they do the work: nothing else here goes before them
}
Handle = Any  # of an actor
Ref = Any  # to a result
Named = Mapping[str, Ref]


class Cluster:
    """A connection to Ray, and what was started over it.

    With no ``address`` that of this process, if it has one; else a cluster of this machine alone, which ends with this
    process. ``processes``: how many will be started, each on a processor. Raises ArgumentError.
    """

    def __init__(self, address: str | None, processes: int, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._actors: dict[str, Handle] = {}
        self._waits, self._idle = 0, threading.Condition()
        self._guard: subprocess.Popen[bytes] | None = None
        self._own = not ray.is_initialized()
        if self._own:
            self._connect(address, processes)
        elif address is not None:
            raise ArgumentError(
                f"--ray-address {address}: this process is connected to Ray already, and can be to one cluster only. "
                "Leave --ray-address out to use that one."
            )
        there = int(ray.cluster_resources().get("CPU", 0))
        if there < processes:
            self.close()
            raise ArgumentError(
                f"{processes} processors are needed for what was asked (--learners and --samplers; or --jobs, with "
                f"threads each), and the Ray cluster has {there}. Ask for less, or start it with more: "
                "`ray start --head --num-cpus N`."
            )

    def _connect(self, address: str | None, processes: int) -> None:
        for name, value in _RAY.items():
            os.environ.setdefault(name, value)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **self._place(address, processes))
        except Exception as cause:  # boundary: Ray raises bare exceptions when it cannot start
            self.close()
            where = f"connect to the Ray cluster at {address!r}" if address else "start a Ray cluster here"
            raise ArgumentError(
                f"could not {where}: {cause}. Start one with `ray start --head` and say --ray-address auto, or leave "
                "--ray-address out."
            ) from cause
        finally:
            os.environ.pop(guard.MARK, None)

    def _place(self, address: str | None, processes: int) -> dict[str, Any]:
        """Where to connect, as ``ray.init`` is told."""
        if address is not None:
            return {"address": address}
        folder = tempfile.mkdtemp(prefix="ray-")
        self._guard = guard.start(folder)
        os.environ[guard.MARK] = folder
        return {"address": "local", "num_cpus": processes, "include_dashboard": False, "_temp_dir": folder}

    def start(self, name: str, kind: type, *args: Any) -> Handle:
        """A process called ``name`` that holds an object of a class; it ends with the cluster's connection."""
        turns = {"turns": 2}  # methods that must be heard while a call is under way
        actor = ray.remote(num_cpus=1, max_restarts=0, concurrency_groups=turns)(kind)
        self._actors[name] = actor.remote(*args)
        return self._actors[name]

    def close(self) -> None:
        """End all that was started. Other threads that wait for it hear that it died before the connection ends."""
        while self._actors:
            ray.kill(self._actors.popitem()[1])
        with self._idle:
            self._idle.wait_for(lambda: not self._waits, GRACE_S)
        if self._own:
            ray.shutdown()
        if self._guard is not None:
            self._guard.communicate(timeout=OPENING_S)
            self._guard = None

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        with self._idle:
            self._waits += 1
        try:
            yield
        finally:
            with self._idle:
                self._waits -= 1
                self._idle.notify_all()

    def wait(
        self,
        calls: Named,
        on_done: Callable[[str, Any], Named] = lambda name, result: {},
        at_least_s: float = 0.0,
    ) -> dict[str, Any]:
        """Results by the name of who gives them. ``on_done`` may add calls when one is done. For any thread.

        The first failure is raised at once. Raises PeerLost, naming who died or was silent past the deadline, which is
        ``at_least_s``."""
        names = {ref: name for name, ref in calls.items()}
        results: dict[str, Any] = {}
        patience = max(self.deadline_s, at_least_s)
        end = time.monotonic() + patience
        with self._waiting():
            while names:
                done, _ = ray.wait(list(names), num_returns=1, timeout=max(end - time.monotonic(), 0))
                if not done:
                    raise PeerLost(f"no answer within {patience:g} s from {self._silent(set(names.values()))}")
                name = names.pop(done[0])
                results[name] = self._result(name, done[0], names)
                for more, ref in on_done(name, results[name]).items():
                    names[ref] = more
                    end = time.monotonic() + patience
        return results

    def _silent(self, names: Collection[str]) -> str:
        """Of those that owe an answer, the ones that do not even say that they are there."""
        pings = {self._actors[n].ping.remote(): n for n in names if n in self._actors}
        _, gone = ray.wait(list(pings), num_returns=len(pings), timeout=GRACE_S) if pings else ([], [])
        if gone:
            return ", ".join(sorted(pings[ref] for ref in gone))
        return ", ".join(sorted(names)) + " (alive, but not done)"

    def _result(self, name: str, ref: Ref, others: Mapping[Ref, str]) -> Any:
        try:
            return ray.get(ref, timeout=self.deadline_s)
        except failures.RayTaskError as failed:
            cause = failed.cause
            if isinstance(cause, EquipoiseError) and not isinstance(cause, PeerLost):
                raise cause from None
            if dead := _dead(others):
                raise PeerLost(f"{dead} died") from failed
            if isinstance(cause, PeerLost | failures.RayError):
                raise PeerLost(f"{name} lost a process that it worked with: {cause}") from failed
            raise RuntimeError(f"{name} failed: {cause!r}") from failed
        except failures.RayActorError as gone:
            raise PeerLost(f"{name} died") from gone
        except failures.RayError as lost:
            raise PeerLost(f"what {name} had was lost: {lost}") from lost


def _dead(calls: Mapping[Ref, str]) -> str | None:
    """Who of those still at work died: others fail because of it, and may be heard first."""
    done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=GRACE_S) if calls else ([], [])
    for ref in done:
        try:
            ray.get(ref)
        except failures.RayTaskError:
            continue
        except failures.RayActorError:
            return calls[ref]
    return None
