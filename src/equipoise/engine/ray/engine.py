"""The engine of a cluster, as the loop knows it: learners hold the model between them, samplers a whole one each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from equipoise.engine import flops
from equipoise.engine.local import state
from equipoise.engine.local.learner import Metrics
from equipoise.engine.local.text import Text
from equipoise.engine.ray import slices
from equipoise.engine.ray.cluster import Cluster, Handle, Named
from equipoise.engine.ray.learner import added, merged
from equipoise.engine.ray.peers import Learner, Sampler
from equipoise.errors import ArgumentError, UnknownName
from equipoise.keys import Key
from equipoise.protocols import Environment, TokenNotes
from equipoise.types import Cost, Decoder, Group, ModelInfo, Objective, Prompt, Reply, Response, Totals


@dataclass
class Published:
    """What publishing weights took so far."""

    times: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass
class _Sampling:
    """A sampler: its process, and which state of each policy it holds."""

    handle: Handle
    holds: dict[str, int] = field(default_factory=dict)


class RayEngine:
    """Implements ``equipoise.protocols.Engine``; made by ``equipoise.engine.ray.load``."""

    def __init__(self, cluster: Cluster, spec: Mapping[str, Any], learners: int, samplers: int, threads: int) -> None:
        self._cluster, self._spec, self._threads = cluster, spec, threads
        self._spent: dict[Handle, Cost] = {}  # by process
        self._states = {"current": 0}  # policy -> how often it changed
        self.published = Published()
        self.steps = 0
        self._learners = {f"learner {k}": cluster.start(f"learner {k}", Learner, threads) for k in range(learners)}
        self._samplers = {f"sampler {k}": self._sampler(f"sampler {k}") for k in range(samplers)}
        self._open()

    def _sampler(self, name: str) -> _Sampling:
        return _Sampling(self._cluster.start(name, Sampler, self._threads))

    def _open(self) -> None:
        first = next(iter(self._learners.values()))
        address = self._cluster.wait({"learner 0": first.address.remote()})["learner 0"]
        ranks, deadline_s = len(self._learners), self._cluster.deadline_s
        calls: dict[str, Any] = {
            name: learner.open.remote(self._spec, address, rank, ranks, deadline_s)
            for rank, (name, learner) in enumerate(self._learners.items())
        }
        calls |= {name: sampler.handle.open.remote(self._spec, deadline_s) for name, sampler in self._samplers.items()}
        self._cluster.wait(calls)
        facts = self._cluster.wait({n: h.facts.remote() for n, h in self._learners.items()})["learner 0"]
        self._info: ModelInfo = facts[0]
        self._text: Text = facts[1]
        self._identity, self._shapes = facts[2], facts[3]
        for sampler in self._samplers.values():
            sampler.holds["current"] = 0  # both have opened the same model

    # -- what needs no process -----------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        return self._info

    def spent(self) -> Cost:
        return sum(self._spent.values(), Cost())

    def bound(self, prompt_tokens: int, n: int, longest: int, sampled: bool, forward: int, backward: int) -> Cost:
        return flops.bound(self._info, prompt_tokens, n, longest, forward, backward, sampled)

    def encode(self, prompt: Prompt) -> Prompt:
        return self._text.encode(prompt)

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        return self._text.encode_reply(prompt, reply, origin)

    def encode_text(self, text: str) -> tuple[int, ...]:
        return self._text.ids(text)

    def encode_turn(self, text: str) -> tuple[int, ...]:
        return self._text.turn(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._text.decode(ids)

    def close(self) -> None:
        """End all processes."""
        self._cluster.close()

    # -- samplers --------------------------------------------------------------------------------------------------

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Environment | None = None,
    ) -> list[Group]:
        """See the protocol. Each sampler takes a run of the prompts, as equal as can be."""
        if len(keys) != len(prompts):
            raise ArgumentError(f"sample: {len(prompts)} prompts and {len(keys)} keys; each prompt needs one key.")
        prompts = [p if p.ids is not None else self.encode(p) for p in prompts]
        shares = _runs(len(prompts), len(self._samplers))
        asked = {name: share for name, share in zip(self._samplers, shares, strict=True) if len(share)}
        self._publish(policy, list(asked))
        calls = {}
        for name, share in asked.items():
            own = [prompts[j] for j in share], n, decoder, [keys[j] for j in share]
            calls[name] = self._samplers[name].handle.sample.remote(*own, policy, self.steps, reply is not None)
        found = self._cluster.wait(calls) if reply is None else self._converse(calls, reply)
        for name in asked:
            self._spent[self._samplers[name].handle] = found[name][1]
        return [group for name in asked for group in found[name][0]]

    def _converse(self, calls: Named, reply: Environment) -> dict[str, Any]:
        """Wait for samplers and speak for the environment meanwhile, which lives in this process."""
        handles = {f"{name}'s question": self._samplers[name].handle for name in calls}

        def answer(name: str, turn: tuple[Prompt, Response] | None) -> Named:
            if name not in handles or turn is None:
                return {}
            handles[name].answer.remote(reply(*turn))
            return {name: handles[name].question.remote()}

        return self._cluster.wait({**calls, **{n: h.question.remote() for n, h in handles.items()}}, answer)

    def _publish(self, policy: str, names: Sequence[str]) -> None:
        """Bring a policy's weights to samplers that hold an older state of them: rows of tensors go from each learner
        through shared memory (or the network) to each sampler; no process gathers them, nothing touches a disk."""
        if policy not in self._states:
            raise UnknownName("policy", policy, self._states)
        now = self._states[policy]
        old = [name for name in names if self._samplers[name].holds.get(policy) != now]
        if not old:
            return
        started = time.monotonic()
        found = self._cluster.wait({name: learner.rows.remote(policy) for name, learner in self._learners.items()})
        parts = [part for name in self._learners for part in found[name]]
        sizes = self._cluster.wait({name: self._samplers[name].handle.receive.remote(policy, parts) for name in old})
        for name in old:
            self._samplers[name].holds[policy] = now
        self.published.times += 1
        self.published.bytes += sum(sizes.values())
        self.published.seconds += time.monotonic() - started

    # -- learners --------------------------------------------------------------------------------------------------

    def _all(self, method: str, *args: Any) -> list[Any]:
        """The same call to every rank, large arguments once in shared memory."""
        shared = [ray.put(a) if isinstance(a, list) else a for a in args]
        calls = {name: learner.call.remote(method, *shared) for name, learner in self._learners.items()}
        found = self._cluster.wait(calls)
        for name, learner in self._learners.items():
            self._spent[learner] = found[name][1]
        return [found[name][0] for name in self._learners]

    def outputs(self, groups: Sequence[Group], needs: Sequence[str], policy: str = "current") -> list[TokenNotes]:
        return merged(self._all("outputs", list(groups), tuple(needs), policy)) if groups else []

    def backward(
        self, groups: Sequence[Group], objective: Objective, totals: Totals
    ) -> tuple[Metrics, list[TokenNotes]]:
        if not groups:
            return {}, []
        found = self._all("backward", list(groups), objective, totals)
        return added([metrics for metrics, _ in found]), merged([notes for _, notes in found])

    def step(self, lr: float) -> dict[str, float]:
        found: dict[str, float] = self._all("step", lr)[0]
        self._states["current"] += 1
        self.steps += 1
        return found

    def discard(self) -> None:
        self._all("discard")

    def combine(self, into: str, weights: Mapping[str, float]) -> None:
        self._all("combine", into, dict(weights))
        self._states[into] = self._states.get(into, 0) + 1

    # -- disk --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """The local engine's files, written rank by rank: either engine resumes from them, on any number of ranks."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(self._states.keys() - {"current"})
        files = {"weights": "current", "optimiser": "optimiser"}
        files |= {f"policy-{k}": name for k, name in enumerate(names)}
        for file, what in files.items():
            slices.write(folder / f"{file}.safetensors", (self._rows(name, what) for name in self._learners))
        state.seal(folder, {"steps": self.steps, "policies": names, **self._identity}, list(files))

    def _rows(self, learner: str, what: str) -> slices.Slices:
        [part] = self._cluster.wait({learner: self._learners[learner].rows.remote(what)})[learner]
        rows: slices.Slices = self._cluster.wait({learner: part})[learner]
        return rows

    def load(self, folder: Path) -> None:
        folder = Path(folder)
        header = state.read_header(folder)
        state.same_identity(folder, header, self._identity)
        calls, ranks = {}, len(self._learners)
        for rank, (name, learner) in enumerate(self._learners.items()):

            def rows(file: str, rank: int = rank, shapes: Any = self._shapes) -> slices.Slices:
                return slices.read(folder / f"{file}.safetensors", rank, ranks, shapes)

            policies = {policy: rows(f"policy-{k}") for k, policy in enumerate(header["policies"])}
            moments = rows("optimiser", shapes=None)
            calls[name] = learner.call.remote("restore", int(header["steps"]), rows("weights"), policies, moments)
        self._cluster.wait(calls)
        self.steps = int(header["steps"])
        changed = max(self._states.values()) + 1  # whatever samplers hold is out of date
        self._states = dict.fromkeys(("current", *header["policies"]), changed)

    def export(self, folder: Path, merge: bool = True) -> None:
        """A sampler has the whole model: it writes the files, and they are put into ``folder`` here."""
        name, sampler = next(iter(self._samplers.items()))
        self._publish("current", [name])
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file, content in self._cluster.wait({name: sampler.handle.export.remote(merge)})[name].items():
            (Path(folder) / file).write_bytes(content)


def _runs(items: int, parts: int) -> list[range]:
    """``items`` places in ``parts`` runs, as equal as can be."""
    ends = [items * (k + 1) // parts for k in range(parts)]
    return [range(a, b) for a, b in zip([0, *ends], ends, strict=False)]
