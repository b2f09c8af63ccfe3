"""The samplers of a cluster: which state of each policy each of them holds, and how prompts are shared out."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from equipoise.engine.ray.canary import Canary
from equipoise.engine.ray.cluster import Cluster, Handle, Named
from equipoise.keys import Key
from equipoise.protocols import Environment
from equipoise.types import Cost, Decoder, Group, Prompt, Response


@dataclass(frozen=True)
class Frozen:
    """The weights of a policy as they were once: references to every learner's rows, in shared memory, and the
    log-probs that the learners gave the canary, where there is one."""

    state: int  # of the states that the policy went through
    parts: Sequence[Any]
    canary: Sequence[float] = ()


@dataclass
class Published:
    """What publishing weights took so far."""

    times: int = 0
    bytes: int = 0
    seconds: float = 0.0
    canary: float | None = None  # nats, the most that a sampler's log-probs differed from the learners', the last time


@dataclass
class _Sampler:
    handle: Handle
    holds: dict[str, int] = field(default_factory=dict)  # policy -> which state of it
    spent: Cost = field(default_factory=Cost)


class Samplers:
    """Processes that sample, each with a whole model. Two threads may ask; the second waits for the first."""

    def __init__(self, cluster: Cluster, handles: Mapping[str, Handle], canary: Canary | None) -> None:
        self._cluster, self._canary = cluster, canary
        # All have opened the same model; but where there is a canary, it has to be heard before anything is sampled.
        held = {"current": 0} if canary is None else {}
        self._every = {name: _Sampler(handle, dict(held)) for name, handle in handles.items()}
        self._lock = threading.Lock()  # between the delivery of weights and what is sampled from them
        self.published = Published()

    def sample(
        self,
        weights: Frozen,
        policy: str,
        steps: int,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        reply: Environment | None,
    ) -> tuple[list[Group], Cost]:
        """As the protocol's, from these weights. Each sampler takes a run of the prompts, as equal as can be."""
        shares = runs(len(prompts), len(self._every))
        asked = {name: share for name, share in zip(self._every, shares, strict=True) if len(share)}
        with self._lock:
            self._deliver(weights, policy, list(asked))
            calls = {}
            for name, share in asked.items():
                own = [prompts[j] for j in share], n, decoder, [keys[j] for j in share]
                calls[name] = self._every[name].handle.sample.remote(*own, policy, steps, reply is not None)
            found = self._cluster.wait(calls) if reply is None else self._converse(calls, reply)
            cost = sum((self._newly(name, found[name][1]) for name in asked), Cost())
        return [group for name in asked for group in found[name][0]], cost

    def _newly(self, name: str, total: Cost) -> Cost:
        """What a sampler spent since it was last asked."""
        newly, self._every[name].spent = total - self._every[name].spent, total
        return newly

    def _converse(self, calls: Named, reply: Environment) -> dict[str, Any]:
        """Wait for samplers and speak for the environment meanwhile, which lives in this process."""
        handles = {f"{name}'s question": self._every[name].handle for name in calls}

        def answer(name: str, turn: tuple[Prompt, Response] | None) -> Named:
            if name not in handles or turn is None:
                return {}
            handles[name].answer.remote(reply(*turn))
            return {name: handles[name].question.remote()}

        return self._cluster.wait({**calls, **{n: h.question.remote() for n, h in handles.items()}}, answer)

    def _deliver(self, weights: Frozen, policy: str, names: Sequence[str]) -> None:
        """Bring weights to samplers that hold another state of the policy: rows of tensors go from each learner through
        shared memory (or the network) to each sampler; no process gathers them, nothing touches a disk."""
        other = [name for name in names if self._every[name].holds.get(policy) != weights.state]
        if not other:
            return
        started, parts = time.monotonic(), list(weights.parts)
        for name in other:
            self._every[name].holds.pop(policy, None)  # until it has all of them
        calls = {name: self._every[name].handle.receive.remote(policy, parts) for name in other}
        sizes = self._cluster.wait(calls)
        self._hear(weights, policy, other)
        for name in other:
            self._every[name].holds[policy] = weights.state
        self.published.times += 1
        self.published.bytes += sum(sizes.values())
        self.published.seconds += time.monotonic() - started

    def _hear(self, weights: Frozen, policy: str, names: Sequence[str]) -> None:
        """The canary, from samplers that were given weights. Raises Mismatch."""
        if self._canary is None:
            return
        calls = {name: self._every[name].handle.logprobs.remote(self._canary.ids, policy) for name in names}
        heard = self._cluster.wait(calls)
        said = weights.canary
        self.published.canary = max(self._canary.check(name, policy, said, heard[name]) for name in names)

    def export(self, weights: Frozen, merge: bool) -> dict[str, bytes]:
        """The files of a Hugging Face folder, by name."""
        name, sampler = next(iter(self._every.items()))
        with self._lock:
            self._deliver(weights, "current", [name])
            files: dict[str, bytes] = self._cluster.wait({name: sampler.handle.export.remote(merge)})[name]
        return files


def runs(items: int, parts: int) -> list[range]:
    """``items`` places in ``parts`` runs, as equal as can be."""
    ends = [items * (k + 1) // parts for k in range(parts)]
    return [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]
