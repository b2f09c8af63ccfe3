"""The engine for one machine: any Hugging Face causal language model, on CPU, CUDA or MPS."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equipoise.engine import flops
from equipoise.engine.batch import REDUCTIONS, origin
from equipoise.engine.local import adaptation, sampler, state
from equipoise.engine.local.learner import Learner, Metrics, named
from equipoise.engine.local.network import Network
from equipoise.engine.local.text import Text
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError, Diverged, RecordError, UnknownName
from equipoise.keys import Key
from equipoise.protocols import Environment, TokenNotes
from equipoise.types import Cost, Decoder, Group, ModelInfo, Objective, Prompt, Reply, Response, Totals

LOT = 2560  # tokens of prompts that are read at once; products of more rows are hardly faster


@dataclass(frozen=True)
class Settings:
    """Of the optimiser and of memory; the same settings give the same numbers."""

    row_tokens: int  # of a micro-batch
    stretch: bool  # or twice a shared prompt's
    sampled_rows: int | None  # in flight; None: from the size of the cache
    optimiser: Optimiser


class LocalEngine:
    """Implements ``equipoise.protocols.Engine``; made by ``equipoise.engine.local.load``."""

    def __init__(
        self, network: Network, wrapper: Any, heads: nn.ModuleDict, info: ModelInfo, text: Text, settings: Settings
    ) -> None:
        self._network = network
        self._wrapper = wrapper  # PEFT's, or None
        self._heads = heads
        self._info = info
        self._text = text
        self._settings = settings
        self._learner = Learner(network, heads, info, settings.row_tokens, settings.stretch)
        self._trained = dict(named(network.model, heads))
        self._optimiser = adamw(self._trained.values(), settings.optimiser, network.device)
        self._policies: dict[str, dict[str, Tensor]] = {}
        self._sampling = Cost()
        self.steps = 0  # optimiser steps taken

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def network(self) -> Network:
        """The model and what it was found to support."""
        return self._network

    @property
    def text(self) -> Text:
        """The tokenizer with its template."""
        return self._text

    @property
    def tokenizer(self) -> Any:
        return self._text.tokenizer

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        """What the optimiser updates, by name; ``head:<name>.weight`` for heads."""
        return self._trained

    @property
    def layouts(self) -> Mapping[str, int]:
        """Layout of the learner's rows -> micro-batches run in it so far."""
        return dict(self._learner.layouts)

    def spent(self) -> Cost:
        return self._sampling + self._learner.cost

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

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        decoder: Decoder,
        keys: Sequence[Key],
        policy: str = "current",
        reply: Environment | None = None,
    ) -> list[Group]:
        """See the protocol. ``decoder.max_new_tokens`` bounds the policy's own tokens; a greedy response's recorded
        log-probs are 0 (a point mass). The environment's turns count as segments of their own."""
        prompts = [p if p.ids is not None else self.encode(p) for p in prompts]
        if len(keys) != len(prompts):
            raise ArgumentError(f"sample: {len(prompts)} prompts and {len(keys)} keys; each prompt needs one key.")

        def respond(row: sampler.Row) -> Response:
            return self._response(row, decoder, str(keys[row.prompt] / row.sample), policy)

        def spoken(row: sampler.Row) -> Sequence[int] | None:
            return reply(prompts[row.prompt], respond(row)) if reply else None

        def heads(last: Tensor) -> Mapping[str, Tensor]:
            names = sorted(decoder.adjust.needs) if decoder.adjust else ()
            return {name: self._learner.head(name)(last.to(self._learner.dtype)) for name in map(_head_name, names)}

        rules = sampler.Rules(
            decoder, frozenset(self._info.eos), self._info.context, self.decode, reply and spoken, heads
        )
        longest = max((len(p.ids or ()) for p in prompts), default=0) + decoder.max_new_tokens
        with self._as(policy), self._network.products(), self._network.autocast(), self._network.decoding():
            rows, cost = sampler.sample(
                self._network, self._info, prompts, n, keys, rules, self._rows(longest), self._lot
            )
        self._sampling += cost
        return [Group(p, tuple(respond(r) for r in own)) for p, own in zip(prompts, rows, strict=True)]

    @property
    def _lot(self) -> int:
        """Tokens of prompts that are read at once: up to four micro-batches, since nothing is kept for a derivative."""
        return max(self._settings.row_tokens, min(4 * self._settings.row_tokens, LOT))

    def _rows(self, length: int) -> int:
        """Rows in flight whose cache stays within two gigabytes."""
        if self._settings.sampled_rows is not None:
            return self._settings.sampled_rows
        per_token = 8 * self._info.layers * self._network.key_width
        return max(1, min(256, (2 << 30) // max(per_token * length, 1)))

    def _response(self, row: sampler.Row, decoder: Decoder, key: str, policy: str) -> Response:
        return self._text.response(
            row.ids,
            row.logprobs,
            row.trained,
            row.segment,
            stop=row.stop or "length",
            temperature=decoder.temperature,
            origin=origin(policy, decoder),
            version=self.steps,
            key=key,
        )

    def snapshot(self, policies: Collection[str] = ()) -> None:
        """One process samples or learns."""

    def outputs(self, groups: Sequence[Group], needs: Sequence[str], policy: str = "current") -> list[TokenNotes]:
        known = {"logp", *REDUCTIONS, *(f"head:{name}" for name in self._heads)}
        for need in needs:
            if need not in known:
                raise UnknownName("output", need, known)
        with self._as(policy), self._network.products():
            return self._learner.read(groups, needs)

    def backward(
        self, groups: Sequence[Group], objective: Objective, totals: Totals
    ) -> tuple[Metrics, list[TokenNotes]]:
        try:
            with self._training(), self._network.products():
                return self._learner.gradient(groups, objective, totals, self.steps)
        except Diverged:
            self.discard()
            raise

    @contextlib.contextmanager
    def _training(self) -> Iterator[None]:
        """transformers recomputes activations only in training mode (dropout is 0 in either)."""
        self._network.model.train(self._info.recompute)
        try:
            yield
        finally:
            self._network.model.eval()

    def step(self, lr: float) -> dict[str, float]:
        norm = self._clip(self._settings.optimiser.clip)
        if not bool(norm.isfinite()):
            self.discard()
            raise Diverged(
                f"the gradient's norm is {float(norm)} at optimiser step {self.steps + 1}. Lower the learning rate "
                f"(it was {lr:g}), or look at the step's rewards and advantages."
            )
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        self.discard()
        self.steps += 1
        return {"grad_norm": float(norm)}

    def _clip(self, most: float) -> Tensor:
        """Scale the gradient to a norm of at most ``most``; its norm before that."""
        return torch.nn.utils.clip_grad_norm_(self._trained.values(), most)

    def discard(self) -> None:
        self._optimiser.zero_grad(set_to_none=True)

    @torch.no_grad()
    def combine(self, into: str, weights: Mapping[str, float]) -> None:
        if not weights:
            raise ArgumentError(f"combine into {into!r}: no weights were given; give at least one policy's.")
        sources = [(self.weights(name), float(w)) for name, w in weights.items()]
        mixed = {k: _mix([(values[k], w) for values, w in sources]) for k in self._trained}
        if into == "current":
            for name, parameter in self._trained.items():
                parameter.copy_(mixed[name])
            self._optimiser.state.clear()  # moments of other weights
        else:
            self._policies[into] = mixed

    def weights(self, policy: str) -> Mapping[str, Tensor]:
        """What is trained, of a named policy, by name. Raises UnknownName."""
        if policy == "current":
            return self._trained
        if policy not in self._policies:
            raise UnknownName("policy", policy, ["current", *self._policies])
        return self._policies[policy]

    @contextlib.contextmanager
    def _as(self, policy: str) -> Iterator[None]:
        """Compute with a named policy's weights; nothing is copied."""
        if policy == "current":
            yield
            return
        other = self.weights(policy)
        mine = {name: p.data for name, p in self._trained.items()}
        try:
            for name, parameter in self._trained.items():
                parameter.data = other[name]
            yield
        finally:
            for name, parameter in self._trained.items():
                parameter.data = mine[name]

    def save(self, folder: Path) -> None:
        tensors: dict[str, Mapping[str, Tensor]] = {"weights": self._trained, "optimiser": self.moments()}
        names = sorted(self._policies)
        tensors |= {f"policy-{k}": self._policies[name] for k, name in enumerate(names)}
        state.write(Path(folder), {"steps": self.steps, "policies": names, **self.identity()}, tensors)

    def load(self, folder: Path) -> None:
        folder = Path(folder)
        header = state.read_header(folder)
        state.same_identity(folder, header, self.identity())
        weights = state.read_tensors(folder, "weights", self._trained)
        policies = {
            name: state.read_tensors(folder, f"policy-{k}", self._trained) for k, name in enumerate(header["policies"])
        }
        moments = state.read_tensors(folder, "optimiser")
        self.adopt(int(header["steps"]), weights, policies, moments)

    def adopt(
        self,
        steps: int,
        weights: Mapping[str, Tensor],
        policies: Mapping[str, Mapping[str, Tensor]],
        moments: Mapping[str, Tensor],
    ) -> None:
        """Go on from these weights, named policies and moments of the optimiser, after so many steps."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(weights[name])
        device = self._network.device
        self._policies = {n: {k: v.to(device) for k, v in values.items()} for n, values in policies.items()}
        self._restore(moments)
        self.discard()
        self.steps = steps

    def identity(self) -> dict[str, Any]:
        """What a state must agree on to be this engine's."""
        dtypes = sorted({str(p.dtype) for p in self._trained.values()})
        return {"parameters": self._info.parameters, "trainable": self._info.trainable, "dtypes": dtypes}

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's, by "<kind>/<name>"."""
        kept = {}
        for name, parameter in self._trained.items():
            for key, value in self._optimiser.state.get(parameter, {}).items():
                kept[f"{key}/{name}"] = torch.as_tensor(value)
        return kept

    def _restore(self, moments: Mapping[str, Tensor]) -> None:
        self._optimiser.state.clear()
        for full, value in moments.items():
            key, name = full.split("/", 1)
            if name not in self._trained:
                raise RecordError(f"the checkpoint's optimiser knows {name!r}, which this model does not train.")
            parameter = self._trained[name]
            place = value if key == "step" and parameter.device.type == "cpu" else value.to(parameter.device)
            self._optimiser.state[parameter][key] = place

    def export(self, folder: Path, merge: bool = True) -> None:
        adaptation.export(self._network.model, self._wrapper, self.tokenizer, Path(folder), merge)

    def timings(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """It started no process."""


def _head_name(need: str) -> str:
    return need.removeprefix("head:")


def adamw(parameters: Iterable[nn.Parameter], o: Optimiser, device: torch.device) -> torch.optim.AdamW:
    """Decay is for matrices: it would pull the scales of norms, and biases, away from what they mean."""
    every = list(parameters)
    kinds = [([p for p in every if p.dim() > 1], o.weight_decay), ([p for p in every if p.dim() <= 1], 0.0)]
    groups = [{"params": own, "weight_decay": decay} for own, decay in kinds if own]
    return torch.optim.AdamW(groups, betas=(o.beta1, o.beta2), eps=o.eps, fused=device.type in ("cpu", "cuda"))


def _mix(terms: Sequence[tuple[Tensor, float]]) -> Tensor:
    """A copy; a single weight of 1 copies bit by bit."""
    total = terms[0][0].detach().clone() if terms[0][1] == 1 else terms[0][0].detach() * terms[0][1]
    for values, weight in terms[1:]:
        total = total + values.detach() * weight
    return total


def describe(
    network: Network,
    name: str,
    revision: str | None,
    eos: tuple[int, ...],
    context: int,
    recompute: bool,
    extra: int = 0,
) -> ModelInfo:
    """Sizes of a model. Parameters shared by the table and the head are counted once in all, and as head; of a
    mixture's experts, those that a token visits. ``extra``: parameters of heads, counted with the output head."""
    model, config = network.model, network.config
    table = {id(p) for p in model.get_input_embeddings().parameters()}
    output = model.get_output_embeddings()
    head = {id(p) for p in output.parameters()}
    positions = {id(p) for n, p in model.named_parameters() if n.split(".")[-2] in ("wpe", "embed_positions")}
    share = _visited(config)
    body = sum(
        int(p.numel() * (share if ".experts." in n else 1.0))
        for n, p in model.named_parameters()
        if id(p) not in table | head | positions
    )
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    size = int(getattr(config, "head_dim", 0) or (config.hidden_size // heads if heads else 0))
    return ModelInfo(
        name=name,
        revision=revision,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        body=body,
        head=sum(p.numel() for p in output.parameters()) + extra,
        layers=int(config.num_hidden_layers),
        width=heads * size,
        vocabulary=network.vocabulary,
        context=context,
        eos=eos,
        dtype=str(network.compute).removeprefix("torch."),
        device=str(network.device),
        recompute=recompute,
    )


def _visited(config: Any) -> float:
    """Share of a mixture's experts that one token visits."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((n for name in names if (n := getattr(config, name, None))), None)
    return float(getattr(config, "num_experts_per_tok", experts)) / experts if experts else 1.0
