"""The engine of a cluster, as the loop knows it: learners hold the model between them, samplers a whole one each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from equipoise.engine import flops
from equipoise.engine.local import state
from equipoise.engine.local.learner import Metrics
from equipoise.engine.local.text import Text
from equipoise.engine.ray import slices
from equipoise.engine.ray.canary import canary
from equipoise.engine.ray.cluster import OPENING_S, Cluster
from equipoise.engine.ray.learner import added, merged
from equipoise.engine.ray.peers import Learner, Sampler
from equipoise.engine.ray.samplers import Frozen, Published, Samplers
from equipoise.errors import ArgumentError, UnknownName
from equipoise.keys import Key
from equipoise.protocols import Environment, TokenNotes
from equipoise.types import Cost, Decoder, Group, ModelInfo, Objective, Prompt, Reply, Response, Totals


class _Reader:
    """What an engine and a view of it can do without any process."""

    def __init__(self, info: ModelInfo, text: Text) -> None:
        self._info, self._text = info, text

    @property
    def info(self) -> ModelInfo:
        return self._info

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


class View(_Reader):
    """What samplers say as the weights were at one instant, whatever the learners do meanwhile.

    Made by ``RayEngine.snapshot``. It may be used in another thread than the engine. Its spending is its own: the
    engine's does not include it."""

    def __init__(self, engine: RayEngine, samplers: Samplers, frozen: Mapping[str, Frozen]) -> None:
        super().__init__(engine._info, engine._text)
        self._samplers, self._frozen, self._spent = samplers, frozen, Cost()
        self.steps = engine.steps

    def spent(self) -> Cost:
        """Of what was asked of this view."""
        return self._spent

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Environment | None = None,
    ) -> list[Group]:
        """See the protocol. Raises UnknownName for a policy that the snapshot was not asked for."""
        if policy not in self._frozen:
            raise UnknownName("policy of this snapshot", policy, self._frozen)
        asked = _asked(self, prompts, keys)
        groups, cost = self._samplers.sample(self._frozen[policy], policy, self.steps, asked, n, decoder, keys, reply)
        self._spent += cost
        return groups

    def outputs(self, groups: Sequence[Group], needs: Sequence[str], policy: str = "current") -> list[TokenNotes]:
        """Raises ArgumentError: only learners read, and they are at work."""
        raise ArgumentError(
            f"--ahead: a source of this method reads {', '.join(needs)} of policy {policy!r} while it draws, which "
            "only the learners can tell, and they learn meanwhile. Leave --ahead out."
        )


class RayEngine(_Reader):
    """Implements ``equipoise.protocols.Engine``; made by ``equipoise.engine.ray.load``. For one thread."""

    def __init__(
        self,
        cluster: Cluster,
        spec: Mapping[str, Any],
        learners: int,
        samplers: int,
        sampler: type[Sampler],
        threads: int,
    ) -> None:
        self._cluster = cluster
        self._learners = {f"learner {k}": cluster.start(f"learner {k}", Learner, threads) for k in range(learners)}
        crew = {f"sampler {k}": cluster.start(f"sampler {k}", sampler, threads) for k in range(samplers)}
        info, text, self._identity, self._shapes = self._open(spec, crew)
        super().__init__(info, text)
        self._canary = canary(info) if sampler.checked else None
        self._samplers = Samplers(cluster, crew, self._canary)
        self._told = Published()
        self._learned = dict.fromkeys(self._learners, Cost())
        self._sampled = Cost()
        self._states = {"current": 0, **dict.fromkeys(spec.get("keep", ()), 0)}  # policy -> how often it changed
        self._frozen: dict[str, Frozen] = {}
        self._sampled_from = {"current"}
        self.steps = 0

    def _open(self, spec: Mapping[str, Any], samplers: Mapping[str, Any]) -> tuple[Any, ...]:
        """Every process opens the model; facts of it."""
        first = next(iter(self._learners.values()))
        address = self._cluster.wait({"learner 0": first.address.remote()}, at_least_s=OPENING_S)["learner 0"]
        ranks, deadline_s = len(self._learners), max(self._cluster.deadline_s, OPENING_S)
        calls: dict[str, Any] = {
            name: learner.open.remote(spec, address, rank, ranks, deadline_s)
            for rank, (name, learner) in enumerate(self._learners.items())
        }
        calls |= {name: handle.open.remote(spec, deadline_s) for name, handle in samplers.items()}
        self._cluster.wait(calls, at_least_s=OPENING_S)
        facts: tuple[Any, ...] = self._cluster.wait({"learner 0": first.facts.remote()})["learner 0"]
        return facts

    def spent(self) -> Cost:
        """See the protocol. What views spent is theirs to tell."""
        return sum(self._learned.values(), self._sampled)

    @property
    def published(self) -> Published:
        """Weights brought to samplers so far."""
        return self._samplers.published

    def timings(self) -> dict[str, float]:
        """Publications: how many, bytes that went to samplers, seconds, and what the canary said of the last one."""
        now, before = self.published, self._told
        self._told = replace(now)
        found = {
            "published": now.times - before.times,
            "published_bytes": now.bytes - before.bytes,
            "published_s": now.seconds - before.seconds,
        }
        return found if now.canary is None else {**found, "canary": now.canary}

    def close(self) -> None:
        """End all processes."""
        self._cluster.close()

    # -- samplers ------------------------------------------------------------------------------------------------------

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Environment | None = None,
    ) -> list[Group]:
        asked = _asked(self, prompts, keys)
        self._sampled_from.add(policy)
        groups, cost = self._samplers.sample(self._freeze(policy), policy, self.steps, asked, n, decoder, keys, reply)
        self._sampled += cost
        return groups

    def snapshot(self, policies: Collection[str] = ()) -> View:
        """Sampling as of now, for another thread while this one goes on to learn: of the current policy, of those named
        here, and of all that were sampled from before. Rows are copied once; none is moved."""
        wanted = {*policies, *self._sampled_from}
        return View(self, self._samplers, {policy: self._freeze(policy) for policy in sorted(wanted)})

    def _freeze(self, policy: str) -> Frozen:
        """A policy's weights as they are now: what is put in shared memory lasts until nobody refers to it."""
        if policy not in self._states:
            raise UnknownName("policy", policy, self._states)
        now, last = self._states[policy], self._frozen.get(policy)
        if last is None or last.state != now:
            found = self._cluster.wait({name: learner.rows.remote(policy) for name, learner in self._learners.items()})
            parts = [part for name in self._learners for part in found[name]]
            last = self._frozen[policy] = Frozen(now, parts, self._sung(policy))
        return last

    def _sung(self, policy: str) -> Sequence[float]:
        """The canary's log-probs, as the learners have them."""
        if self._canary is None:
            return ()
        [notes] = merged(self._all("unmetered", [self._canary.group()], policy))
        logp: list[float] = notes["logp"][0].tolist()
        return logp

    def _changed(self, policy: str) -> None:
        self._states[policy] = self._states.get(policy, 0) + 1
        self._frozen.pop(policy, None)

    # -- learners ------------------------------------------------------------------------------------------------------

    def _all(self, method: str, *args: Any) -> list[Any]:
        """The same call to every rank, large arguments once in shared memory."""
        shared = [ray.put(a) if isinstance(a, list) else a for a in args]
        calls = {name: learner.call.remote(method, *shared) for name, learner in self._learners.items()}
        found = self._cluster.wait(calls)
        self._learned = {name: found[name][1] for name in self._learners}
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
        self._changed("current")
        self.steps += 1
        return found

    def discard(self) -> None:
        self._all("discard")

    def combine(self, into: str, weights: Mapping[str, float]) -> None:
        self._all("combine", into, dict(weights))
        self._changed(into)

    # -- disk ----------------------------------------------------------------------------------------------------------

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
        self._frozen = {}

    def export(self, folder: Path, merge: bool = True) -> None:
        """A sampler has the whole model: it writes the files, and they are put into ``folder`` here."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file, content in self._samplers.export(self._freeze("current"), merge).items():
            (Path(folder) / file).write_bytes(content)


def _asked(reader: _Reader, prompts: Sequence[Prompt], keys: Sequence[Key]) -> list[Prompt]:
    if len(keys) != len(prompts):
        raise ArgumentError(f"sample: {len(prompts)} prompts and {len(keys)} keys; each prompt needs one key.")
    return [p if p.ids is not None else reader.encode(p) for p in prompts]
