"""An engine whose policy is a table: every response can be listed, so every expectation is exact.

The policy has a logit for each (prompt, prefix, next token); token 0 ends a turn, and a response of full length
ends by "length". A prompt may carry a prefix (``ids`` beyond the first), and the table reads what is before a token
without the ends of turns; that row of logits is the hidden state too. It is the oracle for estimators (``responses``,
``expected``, ``gradient``) and the fast engine for tests of the loop. It samples with the same keys and the same
inversion as the real one.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from equipoise.engine.batch import flatten, origin, projection, reductions
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import Diverged, ModelError, RecordError
from equipoise.keys import Key, uniforms
from equipoise.protocols import Environment, TokenNotes
from equipoise.types import (
    Adjust,
    Cost,
    Decoder,
    Group,
    ModelInfo,
    Objective,
    Outputs,
    Prompt,
    Reply,
    Response,
    Stop,
    Totals,
    columns,
    projects,
)

EOS = 0


class TabularEngine:
    """Policies over ``prompts`` prompts, tokens 0..vocabulary-1, responses of at most ``length`` tokens.

    A prompt's ``text`` is its index, and tokens given before the response if there are any. Parameters
    start at ``init`` [prompts, prefixes, vocabulary] or at 0.
    ``optimiser``: "sgd" or "adam"; ``settings``: its own, of which "sgd" has clip and decay. float64 throughout.
    """

    def __init__(
        self,
        prompts: int,
        vocabulary: int,
        length: int,
        *,
        init: Tensor | None = None,
        optimiser: str = "sgd",
        heads: Sequence[str] = (),
        rows_tokens: int = 10**9,
        settings: Optimiser = Optimiser(clip=math.inf),  # noqa: B008  # frozen
    ) -> None:
        self.prefixes: dict[tuple[int, ...], int] = {}
        for n in range(length):
            for p in itertools.product(range(1, vocabulary), repeat=n):
                self.prefixes[p] = len(self.prefixes)
        self.length, self.vocabulary, self.count = length, vocabulary, prompts
        shape = (prompts, len(self.prefixes), vocabulary)
        start = torch.zeros(shape, dtype=torch.float64) if init is None else init.to(torch.float64).reshape(shape)
        self.weights: dict[str, Tensor] = {"logits": start.clone().requires_grad_()}
        for name in heads:
            k = columns(name, vocabulary)
            zero = torch.zeros(shape[:2] if k == 1 else (*shape[:2], k), dtype=torch.float64)
            self.weights[f"head:{name}"] = (
                projection(vocabulary, k, name) if projects(name) else zero
            ).requires_grad_()
        self.named: dict[str, dict[str, Tensor]] = {}
        self.settings, self.optimiser = settings, _optimiser(optimiser, list(self.weights.values()), settings)
        self.rows_tokens, self.version, self.meter = rows_tokens, 0, Cost()

    @property
    def info(self) -> ModelInfo:
        size = self.weights["logits"].numel()
        return ModelInfo(
            name="tabular",
            revision=None,
            parameters=size,
            trainable=size,
            body=size,
            head=0,
            layers=0,
            width=0,
            vocabulary=self.vocabulary,
            context=self.length + 1,
            eos=(EOS,),
            dtype="float64",
            device="cpu",
        )

    def spent(self) -> Cost:
        return self.meter

    def encode(self, prompt: Prompt) -> Prompt:
        index, *given = map(int, (prompt.text or "-1").split())
        if not 0 <= index < self.count or not all(0 < token < self.vocabulary for token in given):
            raise ModelError(f"prompt {prompt.id!r}: text {prompt.text!r}; expected an index below {self.count}")
        return replace(prompt, ids=(index, *given))

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        if not isinstance(reply, str):
            raise ModelError("a tabular policy has no turns; expected a reply such as '1 2'")
        ids = np.array([*map(int, reply.split()), EOS][: self.length], dtype=np.int64)
        return self._response(ids, None, origin, "eos" if ids[-1] == EOS else "length", "", 1.0)

    def encode_text(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    def encode_turn(self, text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split()))

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(i) for i in ids if i != EOS)

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Environment | None = None,
    ) -> list[Group]:
        weights, groups = {k: w.detach() for k, w in self._weights(policy).items()}, []
        for prompt, key in zip(prompts, keys, strict=True):
            assert prompt.ids is not None
            rows = [self._draw(weights, prompt, decoder, key / i, reply, policy) for i in range(n)]
            groups.append(Group(prompt, tuple(rows)))
            tokens = sum(int(r.trained.sum()) for r in rows)
            self.meter += Cost(generated_tokens=tokens, flops=self.flops(tokens, False))
        return groups

    def flops(self, tokens: int, backward: bool) -> float:
        """One look-up a token forward, three with backward: enough to meter."""
        return (3.0 if backward else 1.0) * 2 * self.vocabulary * tokens

    def bound(self, prompt_tokens: int, n: int, longest: int, sampled: bool, forward: int, backward: int) -> Cost:
        """The most that one group can cost, given passes over its tokens."""
        tokens = n * longest  # the ends of turns are not in the table, so there may be more than its length
        flops = self.flops(tokens, False) * (forward + sampled) + self.flops(tokens, True) * backward
        return Cost(tokens if sampled else 0, tokens * backward, flops)

    def _draw(
        self,
        weights: Mapping[str, Tensor],
        prompt: Prompt,
        decoder: Decoder,
        key: Key,
        reply: Environment | None,
        policy: str,
    ) -> Response:
        assert prompt.ids is not None
        index, *before = prompt.ids
        ids: list[int] = []
        logps: list[float] = []
        said: list[bool] = []  # by the policy
        turns: list[int] = []
        word = np.array([key.word], dtype=np.uint64)

        def stopped() -> Stop:
            if ids and ids[-1] == EOS:
                return "eos"
            return "sequence" if any(s in self.decode(ids) for s in decoder.stop) else "length"

        def so_far() -> Response:
            made = self._response(
                np.array(ids), np.array(logps), origin(policy, decoder), stopped(), str(key), decoder.temperature
            )
            return replace(made, trained=np.array(said, dtype=bool), segment=np.array(turns, dtype=np.int32))

        while sum(said) < decoder.max_new_tokens and self._read(before, ids) in self.prefixes:
            row = torch.tensor([self.prefixes[self._read(before, ids)]])
            logp = self._adjusted(weights, index, row, decoder)[0]
            if not torch.isfinite(logp).any():
                raise Diverged(f"the policy's logits are not finite after {ids} of {key}")
            cumulative = np.cumsum(logp.exp().numpy())
            u = float(uniforms(word, np.array([len(ids)]))[0]) * cumulative[-1]
            token = int(np.searchsorted(cumulative, u, side="right"))
            turn = turns[-1] + (not said[-1]) if turns else 0
            ids, logps, said, turns = [*ids, token], [*logps, float(logp[token])], [*said, True], [*turns, turn]
            if stopped() == "sequence":
                break
            if token != EOS:
                continue
            spoken = list((reply(prompt, so_far()) if reply is not None else None) or ())
            if not spoken or self._read(before, [*ids, *spoken]) not in self.prefixes:
                break
            ids, logps = [*ids, *spoken], [*logps, *[0.0] * len(spoken)]
            said, turns = [*said, *[False] * len(spoken)], [*turns, *[turn + 1] * len(spoken)]
        return so_far()

    def _adjusted(self, weights: Mapping[str, Tensor], prompt: int, rows: Tensor, decoder: Decoder) -> Tensor:
        """Log-probs [B, V] that a decoder draws from, at these rows of the table."""
        z, adjust = weights["logits"][prompt, rows], decoder.adjust
        if adjust is not None:
            heads = {n.removeprefix("head:"): _head(weights, n, prompt, rows) for n in adjust.needs}
            z = adjust.run(z, {name: h if h.dim() > 1 else h[:, None] for name, h in heads.items()})
        if decoder.temperature == 0:  # a point mass
            return torch.full_like(z, -math.inf).scatter(-1, z.argmax(-1, keepdim=True), 0.0)
        return torch.log_softmax(z / decoder.temperature, -1)

    def decoded(self, adjust: Adjust) -> TabularEngine:
        """Another engine whose table is what the adjusted decoder draws from: its expectations are exact too."""
        with torch.no_grad():
            rows, decoder = torch.arange(len(self.prefixes)), Decoder(self.length, adjust=adjust)
            init = torch.stack([self._adjusted(self.weights, p, rows, decoder) for p in range(self.count)])
        return TabularEngine(self.count, self.vocabulary, self.length, init=init)

    def _read(self, before: Sequence[int], ids: Sequence[int]) -> tuple[int, ...]:
        """The row of the table: all tokens so far but the ends of turns."""
        return tuple(i for i in (*before, *ids) if i != EOS)

    def _response(
        self, ids: np.ndarray, logps: np.ndarray | None, origin: str, stop: Stop, key: str, temperature: float
    ) -> Response:
        return Response(
            ids=ids.astype(np.int64),
            logprobs=None if logps is None else logps.astype(np.float32),
            trained=np.ones(len(ids), dtype=bool),
            segment=np.zeros(len(ids), dtype=np.int32),
            text=self.decode(ids.tolist()),
            temperature=temperature,
            origin=origin,
            version=self.version,
            stop=stop,
            key=key,
        )

    def responses(self, prompt: Prompt) -> list[Response]:
        """Every response there is to a prompt."""
        ended = [(*p, EOS) for p in self.prefixes]
        full = itertools.product(range(1, self.vocabulary), repeat=self.length)
        every: list[tuple[tuple[int, ...], Stop]] = [(ids, "eos") for ids in ended if len(ids) <= self.length]
        every += [(ids, "length") for ids in full]
        return [self._response(np.array(ids), None, "policy", stop, "", 1.0) for ids, stop in every]

    def logp(self, prompt: Prompt, response: Response, policy: str = "current") -> Tensor:
        """log pi(response | prompt), a differentiable scalar."""
        group = Group(replace(prompt, ids=(int(prompt.text or 0),)), (response,))
        return self._outputs([group], self._weights(policy)).logp.sum()

    def distribution(self, prompt: Prompt, policy: str = "current") -> Tensor:
        """log pi of every response, in the order of ``responses``; differentiable."""
        return torch.stack([self.logp(prompt, r, policy) for r in self.responses(prompt)])

    def target(self, prompt: Prompt, f: Callable[[Response], float], beta: float, policy: str = "start") -> Tensor:
        """log p*, p* = policy exp(f / beta) / Z: what maximises E[f] - beta KL(pi || policy). 2205.11275."""
        rewards = torch.tensor([f(r) for r in self.responses(prompt)], dtype=torch.float64)
        return torch.log_softmax(self.distribution(prompt, policy).detach() + rewards / beta, 0)

    def expected(self, prompt: Prompt, f: Callable[[Response], float]) -> Tensor:
        """E[f(response)] exactly, differentiable."""
        every = self.responses(prompt)
        return torch.stack([self.logp(prompt, r).exp() * f(r) for r in every]).sum()

    def gradient(self) -> Tensor:
        """The accumulated gradient of the logits."""
        grad = self.weights["logits"].grad
        return torch.zeros_like(self.weights["logits"]) if grad is None else grad.clone()

    def snapshot(self, policies: Collection[str] = ()) -> None:
        """One process samples or learns."""

    def outputs(self, groups: Sequence[Group], needs: Sequence[str], policy: str = "current") -> list[TokenNotes]:
        with torch.no_grad():
            out = self._outputs(groups, self._weights(policy), reductions(needs))
        self.meter += Cost(flops=self.flops(len(out.logp), False))
        heads = {f"head:{k}": v[:, 0] if v.shape[1] == 1 else v for k, v in out.heads.items()}
        flat = {"logp": out.logp, **out.reduced, **heads}
        return self._split(groups, {name: flat[name] for name in needs})

    def backward(
        self, groups: Sequence[Group], objective: Objective, totals: Totals
    ) -> tuple[dict[str, tuple[float, float]], list[TokenNotes]]:
        metrics: dict[str, tuple[float, float]] = {}
        notes: list[TokenNotes] = []
        for part in [list(groups)] if objective.scope == "batch" else self._micro(groups):
            batch = flatten(part, totals, torch.device("cpu"), torch.float64)
            out = self._outputs(part, self.weights, reductions(objective.needs))
            loss = objective.loss(out, batch)
            if not torch.isfinite(loss.per_group).all():
                raise Diverged(f"the loss is not finite for prompts {[g.prompt.id for g in part]}")
            loss.per_group.sum().backward()  # type: ignore[no-untyped-call]
            gap = (batch.behaviour - out.logp.detach()).abs().nan_to_num(0.0)
            known = float((~batch.behaviour.isnan()).sum())
            found = {"loss": (loss.per_group.detach().sum(), 1.0), "mismatch": (gap.sum(), known), **loss.metrics}
            for name, (total, n) in found.items():
                old = metrics.get(name, (0.0, 0.0))
                metrics[name] = (old[0] + float(total), 1.0 if name == "loss" else old[1] + float(n))
            notes += self._split(part, {"logp": out.logp.detach()})
            self.meter += Cost(trained_tokens=len(out.logp), flops=self.flops(len(out.logp), True))
        return metrics, notes

    def _micro(self, groups: Sequence[Group]) -> list[list[Group]]:
        parts: list[list[Group]] = []
        room = 0
        for g in groups:
            size = sum(len(r.ids) for r in g.responses)
            if not parts or size > room:
                parts, room = [*parts, []], self.rows_tokens
            parts[-1].append(g)
            room -= size
        return parts

    def _outputs(self, groups: Sequence[Group], weights: Mapping[str, Tensor], reduce: Sequence[str] = ()) -> Outputs:
        at: list[tuple[int, int, int, float]] = []
        for g in groups:
            assert g.prompt.ids is not None
            for r in g.responses:
                ids, before = tuple(r.ids.tolist()), g.prompt.ids[1:]
                rows = [self.prefixes.get(self._read(before, ids[:t]), -1) for t in range(len(ids))]
                at += [
                    (g.prompt.ids[0], row, i, r.temperature)
                    for row, i, on in zip(rows, ids, r.trained, strict=True)
                    if on
                ]
        index = torch.tensor([a[:3] for a in at], dtype=torch.long).reshape(-1, 3)
        temperature = torch.tensor([a[3] for a in at], dtype=torch.float64)
        z = weights["logits"][index[:, 0], index[:, 1]] / temperature[:, None]
        every = torch.log_softmax(z, -1)
        reduced = {"entropy": lambda: -(every.exp() * every).sum(-1), "logsumexp": lambda: z.logsumexp(-1)}
        return Outputs(
            logp=every.gather(1, index[:, 2:])[:, 0],
            heads={
                name.removeprefix("head:"): _columns(name, _head(weights, name, *index[:, :2].T), index[:, 2:])
                for name in weights
                if name.startswith("head:")
            },
            reduced={name: reduced[name]() for name in reduce},
        )

    def _split(self, groups: Sequence[Group], flat: Mapping[str, Tensor]) -> list[TokenNotes]:
        notes: list[TokenNotes] = []
        start = 0
        for g in groups:
            mine: dict[str, list[np.ndarray]] = {name: [] for name in flat}
            for r in g.responses:
                n = int(r.trained.sum())
                for name, x in flat.items():
                    full = np.zeros((len(r.ids), *x.shape[1:]))
                    full[r.trained] = x[start : start + n].numpy()
                    mine[name].append(full)
                start += n
            notes.append({name: tuple(rows) for name, rows in mine.items()})
        return notes

    def _weights(self, policy: str) -> dict[str, Tensor]:
        if policy == "current":
            return self.weights
        if policy not in self.named:
            raise ModelError(f"no policy is called {policy!r}; there are {['current', *self.named]}")
        return self.named[policy]

    def step(self, lr: float) -> dict[str, float]:
        grads = [w.grad for w in self.weights.values() if w.grad is not None]
        norm = float(torch.stack([g.norm() for g in grads]).norm()) if grads else 0.0
        if not np.isfinite(norm):
            raise Diverged(f"the gradient's norm is {norm}")
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()
        self.discard()
        self.version += 1
        return {"grad_norm": norm}

    def discard(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def combine(self, into: str, weights: Mapping[str, float]) -> None:
        parts = {name: self._weights(name) for name in weights}
        mixed = {
            k: torch.stack([w * parts[name][k].detach() for name, w in weights.items()]).sum(0) for k in self.weights
        }
        if into != "current":
            self.named[into] = mixed
            return
        with torch.no_grad():
            for k, w in self.weights.items():
                w.copy_(mixed[k])
        self.optimiser.state.clear()  # moments of other weights

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"current|{k}": w.detach() for k, w in self.weights.items()}
        tensors |= {f"{name}|{k}": w for name, ws in self.named.items() for k, w in ws.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser|{i}|{k}": torch.as_tensor(v) for k, v in state.items() if v is not None}
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "state.safetensors")
        (folder / "state.json").write_text(json.dumps({"version": self.version}))

    def load(self, folder: Path) -> None:
        try:
            tensors = load_file(folder / "state.safetensors")
            self.version = json.loads((folder / "state.json").read_text())["version"]
        except (OSError, ValueError, KeyError) as e:
            raise RecordError(f"{folder} is no checkpoint of this engine: {e}") from e
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            owner, _, rest = name.partition("|")
            if owner == "optimiser":
                i, _, k = rest.partition("|")
                moments.setdefault(int(i), {})[k] = value
            elif owner == "current":
                self.weights[rest].data.copy_(value)
            else:
                self.named.setdefault(owner, {})[rest] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})

    def export(self, folder: Path, merge: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: w.detach().clone() for k, w in self.weights.items()}, folder / "table.safetensors")

    def timings(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """It started no process."""


def _head(weights: Mapping[str, Tensor], name: str, prompt: Tensor | int, rows: Tensor) -> Tensor:
    """Of its own table, or for a projection of the logits, at these rows."""
    if not projects(name):
        return weights[name][prompt, rows]
    return weights["logits"][prompt, rows] @ weights[name][:-1] + weights[name][-1]


def _columns(name: str, read: Tensor, token: Tensor) -> Tensor:
    """A head's values [T, K]; of one column per vocabulary entry that of the token itself, [T, 1]."""
    if read.dim() == 1:
        return read[:, None]
    return read.gather(1, token) if name.endswith("[V]") else read


def _optimiser(kind: str, parameters: list[Tensor], o: Optimiser) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=1.0, weight_decay=o.weight_decay)
    return torch.optim.AdamW(parameters, lr=1.0, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay)
