"""What runs in the processes of a cluster: a learner rank, or a sampler."""

from __future__ import annotations

import queue
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from equipoise.engine import local
from equipoise.engine.local.engine import LocalEngine
from equipoise.engine.ray.rank import Rank, join
from equipoise.engine.ray.slices import fill
from equipoise.keys import Key
from equipoise.protocols import Environment
from equipoise.types import Cost, Decoder, Group, Prompt, Response

Method = TypeVar("Method", bound=Callable[..., Any])


def meanwhile(method: Method) -> Method:
    """A method that is heard also while a call is under way."""
    marked: Method = ray.method(concurrency_group="turns")(method)
    return marked


class Peer:
    """A process of a cluster."""

    @meanwhile
    def ping(self) -> None:
        """Says that it is there."""


class Learner(Peer):
    """A process with one rank of the model."""

    def __init__(self, threads: int) -> None:
        local.deterministic(threads)

    def address(self) -> str:
        """host:port where the ranks may meet."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def open(self, spec: Mapping[str, Any], address: str, rank: int, ranks: int, deadline_s: float) -> None:
        whole = local.load(**spec)
        join(address, rank, ranks, deadline_s)
        self.engine = Rank(whole, rank, ranks)

    def call(self, name: str, *args: Any) -> tuple[Any, Cost]:
        """A method of the rank's, and all that the rank spent so far."""
        return getattr(self.engine, name)(*args), self.engine.spent()

    def rows(self, what: str) -> list[Any]:
        """A reference to this rank's rows, in shared memory: "current", another policy's, or "optimiser"."""
        return [ray.put(self.engine.slices(what))]

    def facts(self) -> tuple[Any, ...]:
        """Sizes of the model, its text, what a state must agree on, shapes of what is trained."""
        shapes = {name: s.shape for name, s in self.engine.slices("current").items()}
        return self.engine.info, self.engine.text, self.engine.identity(), shapes


class Sampler(Peer):
    """A process with the whole model, which samples and reads but never learns."""

    checked = False  # whether a canary is needed: not where learner and sampler are one program

    def __init__(self, threads: int) -> None:
        local.deterministic(threads)
        self._asked: queue.Queue[tuple[Prompt, Response] | None] = queue.Queue()
        self._answers: queue.Queue[Sequence[int] | None] = queue.Queue()

    def open(self, spec: Mapping[str, Any], deadline_s: float) -> None:
        self.engine: LocalEngine = local.load(**spec)
        self._deadline_s = deadline_s

    def receive(self, policy: str, parts: Sequence[Any]) -> int:
        """Weights of a policy, by reference to each learner's rows; returns their bytes."""
        if policy != "current":
            self.engine.combine(policy, {"current": 1.0})
        return sum(fill(self.engine.weights(policy), ray.get(part, timeout=self._deadline_s)) for part in parts)

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str,
        steps: int,
        replies: bool,
    ) -> tuple[list[Group], Cost]:
        """As an engine's. ``replies``: whoever called answers what ``question`` returns."""
        self.engine.steps = steps
        ask: Environment | None = self._ask if replies else None
        try:
            return self.engine.sample(prompts, n, decoder, keys, policy, ask), self.engine.spent()
        finally:
            if replies:
                self._asked.put(None)

    def _ask(self, prompt: Prompt, response: Response) -> Sequence[int] | None:
        self._asked.put((prompt, response))
        return self._answers.get(timeout=self._deadline_s)

    @meanwhile
    def question(self) -> tuple[Prompt, Response] | None:
        """The next finished turn that the environment must speak to; None when sampling is over."""
        return self._asked.get(timeout=self._deadline_s)

    @meanwhile
    def answer(self, tokens: Sequence[int] | None) -> None:
        self._answers.put(tokens)

    def export(self, merge: bool) -> dict[str, bytes]:
        """The files of a Hugging Face folder, by name."""
        with tempfile.TemporaryDirectory() as folder:
            self.engine.export(Path(folder), merge)
            return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}
