"""Outputs and gradients of groups, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.engine import flops
from equipoise.engine.batch import REDUCTIONS, flatten, reductions
from equipoise.engine.local.network import Network
from equipoise.engine.local.rows import Piece, Rows, arrange, partition, restrict, sequences
from equipoise.errors import ArgumentError, Diverged
from equipoise.protocols import TokenNotes
from equipoise.types import Batch, Cost, Group, Loss, ModelInfo, Objective, Outputs, Totals

Metrics = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Micro:
    """Groups (whole, or part of one) that run together."""

    pieces: tuple[Piece, ...]
    groups: tuple[Group, ...]
    rows: Rows
    temperature: Tensor  # [T]


@dataclass
class Learner:
    """Reads and differentiates. ``cost`` and ``layouts`` grow with every pass."""

    network: Network
    heads: nn.ModuleDict
    info: ModelInfo
    limit: int  # tokens of a micro-batch

    def __post_init__(self) -> None:
        self.cost = Cost()
        self.layouts: dict[str, int] = {}  # layout -> micro-batches run so far

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.network.compute == torch.float64 else torch.float32

    @property
    def _precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def micros(self, groups: Sequence[Group]) -> list[Micro]:
        """The micro-batches of ``groups``: the same ones for every pass over the same groups."""
        return [self._micro(groups, pieces) for pieces in partition(groups, self.limit)]

    def _micro(self, groups: Sequence[Group], pieces: Sequence[Piece]) -> Micro:
        kept = tuple(restrict(groups[p.group], p.responses) for p in pieces)
        rows = arrange(sequences(kept), self.info, self.network.packs)
        self.layouts[rows.layout] = self.layouts.get(rows.layout, 0) + 1
        temperature = [r.temperature or 1.0 for g in kept for r in g.responses for _ in range(int(r.trained.sum()))]
        return Micro(tuple(pieces), kept, rows, torch.tensor(temperature, device=self.network.device))

    def outputs(self, micro: Micro, needs: Sequence[str], frozen: bool = False) -> Outputs:
        """Log-probs and whatever else is needed, for the trained tokens of a micro-batch, in order. ``frozen``: only
        heads are differentiable."""
        rows, device = micro.rows, self.network.device
        read = torch.from_numpy(rows.read).to(device)
        target = torch.from_numpy(rows.target).to(device)
        with self.network.autocast(), torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            hidden = self.network.hidden(rows).index_select(0, read)
            reduced = dict(self.network.logprobs(hidden, target, micro.temperature, reductions(needs)))
        names = [need.removeprefix("head:") for need in needs if need.startswith("head:")]
        heads = {name: self._read_head(name, hidden.to(self.dtype), target) for name in names}
        return Outputs(reduced.pop("logp"), heads, reduced)

    def _read_head(self, name: str, hidden: Tensor, target: Tensor) -> Tensor:
        """[T, K]; of a head with a column per vocabulary entry that of the token, [T, 1]: [T, V] is never held."""
        head = self.head(name)
        if not name.endswith("[V]"):
            values: Tensor = head(hidden)
            return values
        return (hidden * head.weight[target]).sum(-1, keepdim=True) + head.bias[target][:, None]

    def head(self, name: str) -> nn.Linear:
        if name not in self.heads:
            raise ArgumentError(f"no head is called {name!r}; this engine was loaded with {sorted(self.heads)}.")
        if not self.network.splits:
            raise ArgumentError(f"head {name!r}: this model's hidden states cannot be read, only its logits.")
        found = self.heads[name]
        assert isinstance(found, nn.Linear)
        return found

    def _columns(self, need: str) -> int:
        if not need.startswith("head:"):
            return 1
        head = self.head(need[5:])
        return 1 if need.endswith("[V]") else head.out_features

    @torch.no_grad()
    def read(self, groups: Sequence[Group], needs: Sequence[str]) -> list[TokenNotes]:
        """Outputs without gradient, as notes per group."""
        notes: list[TokenNotes] = [{} for _ in groups]
        for name in needs:
            _blank(notes, groups, name, self._precision, self._columns(name))
        for micro in self.micros(groups):
            out = self.outputs(micro, needs)
            self._charge(micro.rows, training=False)
            found = {"logp": out.logp, **out.reduced, **{f"head:{k}": v for k, v in out.heads.items()}}
            for name in needs:
                _write(notes, name, [micro], found[name])
        return notes

    def gradient(
        self, groups: Sequence[Group], objective: Objective, totals: Totals, version: int
    ) -> tuple[Metrics, list[TokenNotes]]:
        """Add the gradient of the objective's sum over groups to the parameters' ``grad``."""
        needs = sorted(need for need in objective.needs if need in REDUCTIONS or need.startswith("head:"))
        notes: list[TokenNotes] = [{} for _ in groups]
        _blank(notes, groups, "logp", self._precision)
        metrics: Metrics = {}
        for unit in _units(self.micros(groups), objective.scope):
            logp = self._unit(groups, unit, objective, totals, needs, metrics)
            _write(notes, "logp", unit, logp)
            _mismatch(unit, logp, version, metrics)
        return metrics, notes

    def _unit(
        self,
        groups: Sequence[Group],
        unit: Sequence[Micro],
        objective: Objective,
        totals: Totals,
        needs: Sequence[str],
        metrics: Metrics,
    ) -> Tensor:
        """One loss: in one pass if it is one micro-batch, else in two. Returns logp [T], detached."""
        if len(unit) == 1:
            out = self.outputs(unit[0], needs, objective.frozen)
            self._charge(unit[0].rows, training=True, frozen=objective.frozen)
            loss = objective.loss(out, self._flat(unit[0].groups, totals))
            _check(loss, unit[0].groups)
            if loss.per_group.requires_grad:
                loss.per_group.sum().backward()  # type: ignore[no-untyped-call]
            _add(metrics, loss)
            return out.logp.detach()
        return self._two_passes(groups, unit, objective, totals, needs, metrics)

    def _two_passes(
        self,
        groups: Sequence[Group],
        unit: Sequence[Micro],
        objective: Objective,
        totals: Totals,
        needs: Sequence[str],
        metrics: Metrics,
    ) -> Tensor:
        """Outputs of all micro-batches, the loss's derivative with respect to them, and that pulled back one by one."""
        with torch.no_grad():
            first = [self.outputs(micro, needs) for micro in unit]
        for micro in unit:
            self._charge(micro.rows, training=False)
        whole, order = _gather(groups, unit, self.network.device)
        leaves = [t.detach()[order].requires_grad_() for t in _columns([_tensors(out) for out in first])]
        loss = objective.loss(_outputs(leaves, first[0]), self._flat(whole, totals))
        _check(loss, whole)
        _add(metrics, loss)
        if not loss.per_group.requires_grad:
            return torch.cat([out.logp for out in first])
        slopes = torch.autograd.grad(loss.per_group.sum(), leaves, allow_unused=True)
        back = torch.argsort(order)
        gap, start = 0.0, 0
        for micro, before in zip(unit, first, strict=True):
            out = self.outputs(micro, needs, objective.frozen)
            self._charge(micro.rows, training=True, frozen=objective.frozen)
            places = back[start : start + len(out.logp)]
            pairs = [(t, s[places]) for t, s in zip(_tensors(out), slopes, strict=True) if s is not None]
            pairs = [(t, s) for t, s in pairs if t.requires_grad]
            torch.autograd.backward([t for t, _ in pairs], [s for _, s in pairs])
            gap = max(gap, float((out.logp.detach() - before.logp).abs().max()))
            start += len(out.logp)
        _sum(metrics, "two_pass_gap", gap, 1.0)
        return torch.cat([out.logp for out in first])

    def _flat(self, groups: Sequence[Group], totals: Totals) -> Batch:
        return flatten(groups, totals, self.network.device, self.dtype)

    def _charge(self, rows: Rows, training: bool, frozen: bool = False) -> None:
        scored = len(rows.target)
        full = training and not frozen
        work = (flops.training if full else flops.forward)(self.info, rows.tokens, rows.seen, scored)
        work += 2 * flops.forward(self.info, 0, 0, scored) if training and frozen else 0  # the heads' gradient
        self.cost += Cost(trained_tokens=scored if training else 0, flops=work)


def _units(micros: Sequence[Micro], scope: str) -> list[list[Micro]]:
    """Micro-batches that must share one loss: all (scope "batch"), those of one group ("group"), none ("response")."""
    if scope == "batch":
        return [list(micros)] if micros else []
    if scope == "response":
        return [[m] for m in micros]
    units: list[list[Micro]] = []
    for micro in micros:
        if units and len(micro.pieces) == 1 and units[-1][0].pieces[0].group == micro.pieces[0].group:
            units[-1].append(micro)
        else:
            units.append([micro])
    return units


def _check(loss: Loss, groups: Sequence[Group]) -> None:
    finite = loss.per_group.detach().isfinite()
    if not bool(finite.all()):
        bad = [g.prompt.id for g, ok in zip(groups, finite.tolist(), strict=True) if not ok]
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise Diverged(
            f"the loss is NaN or infinite for the groups of prompts {', '.join(map(repr, bad[:8]))}{more}. "
            "Lower the learning rate, or look at these rows: rewards, advantages and recorded log-probs must be finite."
        )


def _tensors(out: Outputs) -> list[Tensor]:
    return [out.logp, *(out.heads[k] for k in sorted(out.heads)), *(out.reduced[k] for k in sorted(out.reduced))]


def _outputs(tensors: Sequence[Tensor], like: Outputs) -> Outputs:
    """The inverse of ``_tensors``."""
    heads, reduced = sorted(like.heads), sorted(like.reduced)
    rest = iter(tensors[1:])
    return Outputs(tensors[0], {k: next(rest) for k in heads}, {k: next(rest) for k in reduced})


def _columns(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _gather(groups: Sequence[Group], unit: Sequence[Micro], device: torch.device) -> tuple[list[Group], Tensor]:
    """The unit's groups made whole again, in order, and the place of each of their trained tokens in the unit's."""
    places: dict[tuple[int, int], range] = {}
    start = 0
    for k, i, trained in _walk(unit):
        places[k, i] = range(start, start + int(trained.sum()))
        start = places[k, i].stop
    order = [place for key in sorted(places) for place in places[key]]
    keep = {k: [i for g, i in sorted(places) if g == k] for k in sorted({g for g, _ in places})}
    return [restrict(groups[k], kept) for k, kept in keep.items()], torch.tensor(order, device=device)


def _walk(unit: Sequence[Micro]) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """(group, response, its trained tokens) of every response of a unit, in the order of its outputs."""
    return [
        (piece.group, i, response.trained)
        for micro in unit
        for piece, group in zip(micro.pieces, micro.groups, strict=True)
        for i, response in zip(piece.responses, group.responses, strict=True)
    ]


def _blank(notes: Sequence[TokenNotes], groups: Sequence[Group], name: str, dtype: str, columns: int = 1) -> None:
    """Zeros for every token, trained or not."""
    for note, group in zip(notes, groups, strict=True):
        shape = (columns,) if columns > 1 else ()
        note[name] = tuple(np.zeros((len(r.ids), *shape), dtype=dtype) for r in group.responses)


def _write(notes: Sequence[TokenNotes], name: str, unit: Sequence[Micro], values: Tensor) -> None:
    """``values [T]`` (or [T, K]) of a unit into the notes of its responses' trained tokens."""
    numbers = values.detach().cpu().numpy()
    start = 0
    for k, i, trained in _walk(unit):
        array, size = notes[k][name][i], int(trained.sum())
        piece = numbers[start : start + size]
        array[trained] = piece[:, 0] if piece.ndim > array.ndim else piece
        start += size


def _mismatch(unit: Sequence[Micro], logp: Tensor, version: int, metrics: Metrics) -> None:
    """How far the sampler's log-probs are from the learner's, on tokens that the present weights sampled."""
    recorded, current = [], []
    for micro in unit:
        for response in (r for g in micro.groups for r in g.responses):
            known = response.logprobs is not None and response.version == version and response.temperature > 0
            known = known and response.origin == "policy"  # not of an adjusted distribution
            values = response.logprobs if known and response.logprobs is not None else np.zeros(len(response.ids))
            recorded.append(values[response.trained])
            current.append(np.full(int(response.trained.sum()), known))
    keep = np.concatenate(current)
    if not keep.any():
        return
    gap = np.abs(np.concatenate(recorded) - logp.cpu().numpy())[keep]
    _sum(metrics, "mismatch", float(gap.sum()), float(len(gap)))
    largest, _ = metrics.get("mismatch_max", (0.0, 1.0))
    metrics["mismatch_max"] = (max(largest, float(gap.max())), 1.0)


def _add(metrics: Metrics, loss: Loss) -> None:
    for name, (total, count) in loss.metrics.items():
        _sum(metrics, name, float(total), float(count))


def _sum(metrics: Metrics, name: str, total: float, count: float) -> None:
    before = metrics.get(name, (0.0, 0.0))
    metrics[name] = (before[0] + total, before[1] + count)


def named(module: nn.Module, heads: nn.ModuleDict) -> Mapping[str, nn.Parameter]:
    """Everything trained, by name: the model's own and the heads'."""
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return own | {f"head:{name}": p for name, p in heads.named_parameters()}
