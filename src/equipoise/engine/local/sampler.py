"""Sampling: one prefill a prompt, its cache fanned out; rows leave when they are done, and new ones enter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equipoise.engine import flops
from equipoise.engine.local.decoding import Decoding, begin
from equipoise.engine.local.draw import draw
from equipoise.engine.local.network import Network
from equipoise.keys import Key, uniforms
from equipoise.types import Cost, Decoder, ModelInfo, Prompt, Stop

LEAVE = 0.75  # rows that are done leave when at most this share is still decoding


@dataclass
class Row:
    """A response that is being made."""

    prompt: int
    sample: int
    word: int  # of its key
    length: int  # tokens of the prompt
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    trained: list[bool] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)  # the environment's tokens, not yet appended
    sampled: int = 0
    turn: int = 0
    stop: Stop | None = None

    def append(self, token: int, logp: float, trained: bool) -> None:
        self.ids.append(token)
        self.logprobs.append(logp)
        self.trained.append(trained)
        self.segment.append(self.turn)
        self.sampled += trained


@dataclass(frozen=True)
class Rules:
    """When a row stops, and what then."""

    decoder: Decoder
    eos: frozenset[int]
    context: int
    decode: Callable[[Sequence[int]], str]
    reply: Callable[[Row], Sequence[int] | None] | None = None
    heads: Callable[[Tensor], Mapping[str, Tensor]] = lambda last: {}  # [B, D] -> what the decoder's adjustment reads

    def logits(self, network: Network, last: Tensor) -> Tensor:
        """[B, D] -> [B, V], adjusted where the decoder says so."""
        plain, adjust = network.logits(last), self.decoder.adjust
        return plain if adjust is None else adjust.run(plain, self.heads(last))

    def stop(self, row: Row) -> Stop | None:
        """After a sampled token."""
        if row.ids[-1] in self.eos:
            return "eos"
        if self.decoder.stop and self._ends(row.ids):
            return "sequence"
        return self.full(row)

    def full(self, row: Row) -> Stop | None:
        full = row.sampled >= self.decoder.max_new_tokens or row.length + len(row.ids) >= self.context
        return "length" if full else None

    def _ends(self, ids: Sequence[int]) -> bool:
        tail = self.decode(ids[-max(map(len, self.decoder.stop)) - 4 :])
        return any(s in tail for s in self.decoder.stop)

    def answer(self, row: Row, stop: Stop) -> bool:
        """Let the environment speak at a stop; True if it did and the row goes on."""
        if self.reply is None or stop == "length":
            return False
        row.stop = stop
        tokens = self.reply(row)
        row.stop = None
        if not tokens or self.full(row) or row.length + len(row.ids) + len(tokens) >= self.context:
            return False
        row.turn += 1
        row.forced.extend(int(t) for t in tokens)
        return True


def sample(
    network: Network, info: ModelInfo, prompts: Sequence[Prompt], n: int, keys: Sequence[Key], rules: Rules,
    limit: int, prefill_tokens: int,
) -> tuple[list[list[Row]], Cost]:  # fmt: skip
    """``n`` finished rows for each prompt, at most ``limit`` in flight, and what they cost."""
    rows = [[Row(j, i, (keys[j] / i).word, len(p.ids or ())) for i in range(n)] for j, p in enumerate(prompts)]
    order = sorted(range(len(prompts)), key=lambda j: (rows[j][0].length if n else 0, j))
    queue = deque(row for j in order for row in rows[j])
    wave: list[Row] = []
    state: Decoding | None = None
    cost = Cost()
    while queue or wave:
        if queue and len(wave) <= limit // 2:
            while queue and len(wave) < limit:  # in lots, but none decodes before all have entered that can
                entering = _take(queue, limit - len(wave), prefill_tokens)
                new, spent = _prefill(network, info, prompts, entering)
                cost += spent
                if state is None or not wave:
                    state = new
                else:
                    state.join(new)
                wave = wave + entering
            continue
        assert state is not None
        tokens = _advance(wave, rules.logits(network, state.last), rules)
        live = [k for k, row in enumerate(wave) if row.stop is None]
        if len(live) <= LEAVE * len(wave):
            wave, tokens = [wave[k] for k in live], tokens[live]
            if live:
                state.select(np.array(live))
        if live:
            state.feed(tokens)
    return rows, cost + decoding_cost(info, rows)


def _take(queue: deque[Row], most: int, tokens: int) -> list[Row]:
    """Rows that enter together: their prompts' tokens (padded) stay within ``tokens``."""
    taken: list[Row] = []
    prompts: set[int] = set()
    while queue and len(taken) < most:
        row = queue[0]
        if taken and row.prompt not in prompts and (len(prompts) + 1) * row.length > tokens:
            break
        prompts.add(row.prompt)
        taken.append(queue.popleft())
    return taken


def _prefill(
    network: Network, info: ModelInfo, prompts: Sequence[Prompt], rows: Sequence[Row]
) -> tuple[Decoding, Cost]:
    own = list(dict.fromkeys(row.prompt for row in rows))
    fan = np.array([own.index(row.prompt) for row in rows])
    ids = [list(prompts[j].ids or ()) for j in own]
    state = begin(network, ids, fan)
    first = [r for r in rows if r.sample == 0]  # a prompt split over two lots is charged once
    return state, Cost(flops=sum(flops.forward(info, r.length, flops.causal(r.length), 1) for r in first))


def _advance(wave: Sequence[Row], logits: Tensor, rules: Rules) -> NDArray[np.int64]:
    """Append one token to every row that is not done; returns what each row is fed next [B]."""
    if logits.device.type == "mps":
        logits = logits.cpu()  # MPS has no float64
    words = np.array([row.word for row in wave], dtype=np.uint64)
    places = np.array([len(row.ids) for row in wave])
    decoder = rules.decoder
    uniform = torch.from_numpy(uniforms(words, places)).to(logits.device)
    drawn, logp = draw(logits, uniform, decoder.temperature, decoder.top_p, decoder.top_k)
    tokens = drawn.cpu().numpy()
    for k, (row, token, nats) in enumerate(zip(wave, tokens.tolist(), logp.tolist(), strict=True)):
        if row.stop is not None:
            continue
        if row.forced:
            token = tokens[k] = row.forced.popleft()
            row.append(token, 0.0, False)
            row.turn += not row.forced
            continue
        row.append(token, nats, True)
        stop = rules.stop(row)
        if stop is not None and not rules.answer(row, stop):
            row.stop = stop
    return tokens


def decoding_cost(info: ModelInfo, rows: Sequence[Sequence[Row]]) -> Cost:
    """Of decoding: the last token of a row is not fed, and the first is drawn from the prefill's logits."""
    generated = fed = seen = 0
    for row in (r for group in rows for r in group):
        generated += row.sampled
        fed += max(len(row.ids) - 1, 0)
        seen += flops.causal(max(len(row.ids) - 1, 0), row.length)
    return Cost(generated_tokens=generated, flops=flops.forward(info, fed, seen, fed))
