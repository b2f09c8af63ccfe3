"""A sampler whose tokens come from vLLM."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.engine import flops
from equipoise.engine.local import sampler
from equipoise.engine.local.sampler import Row, Rules
from equipoise.engine.ray import vllm_weights
from equipoise.engine.ray.peers import Sampler
from equipoise.engine.ray.vllm_env import interpreter
from equipoise.engine.ray.vllm_link import Link
from equipoise.errors import ArgumentError
from equipoise.keys import Key
from equipoise.types import Cost, Decoder, Group, Prompt, Response, Stop

_CACHE = 2 << 30  # bytes of vLLM's cache of keys and values; as much as the native sampler's
_SEED = (1 << 63) - 1  # the largest that vLLM takes


class VllmSampler(Sampler):
    """Holds the model twice: here as the native sampler does, to receive weights, to write the exported folder and for
    the text; and in vLLM's process, which computes."""

    checked = True

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._threads = threads

    def open(self, spec: Mapping[str, Any], deadline_s: float) -> None:
        python = interpreter()  # what is missing is told before anything slow happens
        super().open(spec, deadline_s)
        info = self.engine.info
        if info.dtype not in ("float32", "bfloat16"):
            raise ArgumentError(f"--sampler vllm computes in float32 or bfloat16; got --dtype {info.dtype}")
        self._cost = Cost()
        self._computes: str | None = None  # the policy whose weights vLLM has
        self._link = Link(python, self._threads, deadline_s)
        self._adapts = spec.get("lora_rank") is not None
        longest = 8 * info.layers * info.width * info.context  # bytes that one sequence of full length takes at most
        with tempfile.TemporaryDirectory() as folder:
            self.engine.network.model.config.save_pretrained(folder)
            self.engine.tokenizer.save_pretrained(folder)
            self._link.ask(
                "open",
                folder=folder,
                dtype=info.dtype,
                context=info.context,
                cache_bytes=max(_CACHE, longest),
                lora_rank=spec.get("lora_rank") or 0,
            )
        if self._adapts:  # what is below the adapters never changes
            self._link.hand("load", vllm_weights.plain(self.engine, "current"))

    def receive(self, policy: str, parts: Sequence[Any]) -> int:
        size = super().receive(policy, parts)
        self.change(policy)
        return size

    def change(self, policy: str) -> None:
        """Bring a policy's weights to vLLM."""
        self._computes = None
        if self._adapts:
            self._adapt(policy)
        else:
            self._link.hand("load", vllm_weights.plain(self.engine, policy))
        self._computes = policy

    def _compute(self, policy: str) -> None:
        """``change``, unless vLLM has these weights."""
        if self._computes != policy:
            self.change(policy)

    def close(self) -> None:
        """End vLLM's process; it would end with this one, too."""
        self._link.close()

    def _adapt(self, policy: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.engine._wrapper.peft_config["default"].save_pretrained(folder)
            self._link.hand("adapt", vllm_weights.adapters(self.engine, policy), folder=folder)

    def logprobs(self, ids: Sequence[int], policy: str) -> list[float]:
        """Of each token of a sequence but the first, at temperature 1."""
        self._compute(policy)
        found: list[float] = self._link.ask("logprobs", ids=list(ids))
        return found

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
        """As an engine's. Seeds are functions of the keys; a turn that follows the environment's has one of its own."""
        self.engine.steps = steps
        try:
            _possible(decoder)
            self._compute(policy)
            return self._groups(prompts, n, decoder, keys, policy, replies), self._cost
        finally:
            if replies:
                self._asked.put(None)

    def _groups(
        self, prompts: Sequence[Prompt], n: int, decoder: Decoder, keys: Sequence[Key], policy: str, replies: bool
    ) -> list[Group]:
        info = self.engine.info

        def key(row: Row) -> Key:
            return keys[row.prompt] / row.sample

        def respond(row: Row) -> Response:
            return self.engine._response(row, decoder, str(key(row)), policy)

        def spoken(row: Row) -> Sequence[int] | None:
            return self._ask(prompts[row.prompt], respond(row))

        rules = Rules(decoder, frozenset(info.eos), info.context, self.engine.decode, spoken if replies else None)
        rows = [[Row(j, i, 0, len(p.ids or ())) for i in range(n)] for j, p in enumerate(prompts)]
        live = [row for group in rows for row in group]
        while live:
            found = self._link.ask(
                "sample",
                requests=[_request(row, prompts[row.prompt], key(row), rules) for row in live],
                **_shared(decoder, info.eos),
            )
            for row, said in zip(live, found, strict=True):
                _append(row, said, rules)
            live = [row for row in live if row.stop is None]
        read = (flops.forward(info, len(p.ids or ()), flops.causal(len(p.ids or ())), 1) for p in prompts)
        self._cost += sampler.decoding_cost(info, rows) + Cost(flops=sum(read) if n else 0.0)
        return [Group(p, tuple(respond(row) for row in own)) for p, own in zip(prompts, rows, strict=True)]


def _possible(decoder: Decoder) -> None:
    """Raises ArgumentError for what vLLM does not do, or would silently do otherwise."""
    if decoder.adjust is not None:
        raise ArgumentError(
            f"decoder {decoder.adjust.name!r} is a function of logits, which vLLM does not call. Use --sampler local"
        )
    if decoder.temperature != 0 and not 0.01 <= decoder.temperature <= 2:
        raise ArgumentError(
            f"temperature {decoder.temperature:g}: vLLM samples at 0 and from 0.01 to 2. Use --sampler local for others"
        )


def _request(row: Row, prompt: Prompt, key: Key, rules: Rules) -> dict[str, Any]:
    """What vLLM is asked to go on from."""
    ids = [*(prompt.ids or ()), *row.ids]
    most = min(rules.decoder.max_new_tokens - row.sampled, rules.context - len(ids))
    turn = key if not row.turn else key / "turn" / row.turn
    return {"ids": ids, "max_tokens": most, "seed": turn.word & _SEED}


def _shared(decoder: Decoder, eos: Sequence[int]) -> dict[str, Any]:
    """vLLM's names of what all responses share."""
    return {
        "temperature": decoder.temperature,
        "top_p": decoder.top_p,
        "top_k": decoder.top_k,
        "stop": list(decoder.stop),
        "stop_token_ids": list(eos),
        "detokenize": bool(decoder.stop),
    }


def _append(row: Row, said: Mapping[str, Any], rules: Rules) -> None:
    """What vLLM said, and what the environment says to that."""
    greedy = rules.decoder.temperature == 0
    for token, nats in zip(said["ids"], said["logprobs"], strict=True):
        row.append(token, 0.0 if greedy else nats, True)  # of a point mass, as the native sampler records it
    stop: Stop = "eos" if row.ids[-1] in rules.eos else "sequence" if said["sequence"] else "length"
    if not rules.answer(row, stop):
        row.stop = stop
        return
    while row.forced:
        row.append(row.forced.popleft(), 0.0, False)
    row.turn += 1
