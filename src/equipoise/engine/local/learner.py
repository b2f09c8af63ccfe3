"""Outputs and gradients of groups, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
LARGEST = ("mismatch_max", "two_pass_gap")  # metrics that are the largest of their parts, not their sum


@dataclass(frozen=True)
class Micro:
    """Groups (whole, or part of one) that run together."""

    pieces: tuple[Piece, ...]
    groups: tuple[Group, ...]
    rows: Rows
    temperature: Tensor  # [T]


Slopes = list[Tensor | None] | None  # by output, None where the loss does not read it; None: it reads no output


@dataclass
class Call:
    """One call of ``gradient``: what it was asked, and what it found."""

    groups: Sequence[Group]
    objective: Objective
    totals: Totals
    version: int  # of the weights
    needs: Sequence[str]  # outputs besides the log-probs
    notes: list[TokenNotes]
    metrics: Metrics = field(default_factory=dict)

    def add(self, loss: Loss) -> None:
        for name, (total, count) in loss.metrics.items():
            _sum(self.metrics, name, float(total), float(count))

    def note(self, unit: Sequence[Micro], logp: Tensor) -> None:
        _write(self.notes, "logp", unit, logp)
        _mismatch(unit, logp, self.version, self.metrics)

    def moved(self, gap: float) -> None:
        """The largest difference of a log-prob between two passes."""
        _largest(self.metrics, "two_pass_gap", gap)


@dataclass
class Learner:
    """Reads and differentiates. ``cost`` and ``layouts`` grow with every pass."""

    network: Network
    heads: nn.ModuleDict
    info: ModelInfo
    limit: int  # tokens of a micro-batch
    stretch: bool = False  # or twice a long prompt's (``rows.partition``)

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
        return [self._micro(groups, pieces) for pieces in self.cut(groups, "response")]

    def cut(self, groups: Sequence[Group], scope: str) -> list[list[Piece]]:
        """Micro-batches for a loss of this scope."""
        return partition(groups, self.limit, self.network.packs, self.stretch)

    def _micro(self, groups: Sequence[Group], pieces: Sequence[Piece]) -> Micro:
        kept = tuple(restrict(groups[p.group], p.responses) for p in pieces)
        rows = arrange(sequences(kept), self.info, self.network.packs, self.network.blocks)
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

    def read(self, groups: Sequence[Group], needs: Sequence[str]) -> list[TokenNotes]:
        """Outputs without gradient, as notes per group."""
        return self._noted(groups, self.micros(groups), needs)

    def _noted(self, groups: Sequence[Group], micros: Sequence[Micro], needs: Sequence[str]) -> list[TokenNotes]:
        """Outputs of these micro-batches of ``groups``; zeros elsewhere."""
        notes: list[TokenNotes] = [{} for _ in groups]
        for name in needs:
            _blank(notes, groups, name, self._precision, self._columns(name))
        for micro in micros:
            out = self._first(micro, needs)
            found = {"logp": out.logp, **out.reduced, **{f"head:{k}": v for k, v in out.heads.items()}}
            for name in needs:
                _write(notes, name, [micro], found[name])
        return notes

    def gradient(
        self, groups: Sequence[Group], objective: Objective, totals: Totals, version: int
    ) -> tuple[Metrics, list[TokenNotes]]:
        """Add the gradient of the objective's sum over groups to the parameters' ``grad``."""
        call = self._call(groups, objective, totals, version)
        for cut in units(self.cut(groups, objective.scope), objective.scope):
            unit = [self._micro(groups, pieces) for pieces in cut]
            call.note(unit, self._one_pass(call, unit[0]) if len(unit) == 1 else self._two_passes(call, unit))
        return call.metrics, call.notes

    def _call(self, groups: Sequence[Group], objective: Objective, totals: Totals, version: int) -> Call:
        notes: list[TokenNotes] = [{} for _ in groups]
        _blank(notes, groups, "logp", self._precision)
        needs = sorted(need for need in objective.needs if need in REDUCTIONS or need.startswith("head:"))
        return Call(groups, objective, totals, version, needs, notes)

    def _one_pass(self, call: Call, micro: Micro) -> Tensor:
        """The loss of a single micro-batch, differentiated. Returns logp [T], detached."""
        out = self.outputs(micro, call.needs, call.objective.frozen)
        self._charge(micro.rows, training=True, frozen=call.objective.frozen)
        loss = call.objective.loss(out, self._flat(micro.groups, call.totals))
        _check(loss, micro.groups)
        if loss.per_group.requires_grad:
            loss.per_group.sum().backward()  # type: ignore[no-untyped-call]
        call.add(loss)
        return out.logp.detach()

    def _two_passes(self, call: Call, unit: Sequence[Micro]) -> Tensor:
        """Outputs of all micro-batches, the loss's derivative with respect to them, and that pulled back one by one."""
        first = [self._first(micro, call.needs) for micro in unit]
        for micro, before, slopes in zip(unit, first, self._slopes(call, unit, first), strict=True):
            self._pull(call, micro, before, slopes)
        return torch.cat([out.logp for out in first])

    @torch.no_grad()
    def _first(self, micro: Micro, needs: Sequence[str]) -> Outputs:
        self._charge(micro.rows, training=False)
        return self.outputs(micro, needs)

    def _slopes(
        self, call: Call, unit: Sequence[Micro], first: Sequence[Outputs], checked: bool = True
    ) -> list[Slopes]:
        """For each micro-batch, the derivative of the unit's loss with respect to each of its outputs."""
        whole, order = _gather(call.groups, unit, self.network.device)
        leaves = [t.detach()[order].requires_grad_() for t in _columns([_tensors(out) for out in first])]
        loss = call.objective.loss(_outputs(leaves, first[0]), self._flat(whole, call.totals))
        if checked:
            _check(loss, whole)
        call.add(loss)
        if not loss.per_group.requires_grad:
            return [None for _ in unit]
        slopes = torch.autograd.grad(loss.per_group.sum(), leaves, allow_unused=True)
        ends = np.cumsum([len(out.logp) for out in first]).tolist()
        places = [torch.argsort(order)[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return [[None if s is None else s[own] for s in slopes] for own in places]

    def _pull(self, call: Call, micro: Micro, before: Outputs, slopes: Slopes) -> None:
        """Pull the loss's derivative back through a micro-batch."""
        if slopes is None:
            return
        out = self.outputs(micro, call.needs, call.objective.frozen)
        self._charge(micro.rows, training=True, frozen=call.objective.frozen)
        pull_back(out, slopes)
        call.moved(float((out.logp.detach() - before.logp).abs().max()))

    def _flat(self, groups: Sequence[Group], totals: Totals) -> Batch:
        return flatten(groups, totals, self.network.device, self.dtype)

    def _charge(self, rows: Rows, training: bool, frozen: bool = False) -> None:
        scored = len(rows.target)
        full = training and not frozen
        work = (flops.training if full else flops.forward)(self.info, rows.tokens, rows.seen, scored)
        work += 2 * flops.forward(self.info, 0, 0, scored) if training and frozen else 0  # the heads' gradient
        self.cost += Cost(trained_tokens=scored if training else 0, flops=work)


def units(cuts: Sequence[list[Piece]], scope: str) -> list[list[list[Piece]]]:
    """Micro-batches that must share one loss: all (scope "batch"), those of one group ("group"), none ("response")."""
    if scope == "batch":
        return [list(cuts)] if cuts else []
    if scope == "response":
        return [[pieces] for pieces in cuts]
    found: list[list[list[Piece]]] = []
    for pieces in cuts:
        if found and len(pieces) == 1 and found[-1][0][0].group == pieces[0].group:
            found[-1].append(pieces)
        else:
            found.append([pieces])
    return found


def pull_back(out: Outputs, slopes: Sequence[Tensor | None]) -> None:
    """Backward from a micro-batch's outputs."""
    pairs = [(t, s) for t, s in zip(_tensors(out), slopes, strict=True) if s is not None and t.requires_grad]
    if pairs:
        torch.autograd.backward([t for t, _ in pairs], [s for _, s in pairs])


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
    _largest(metrics, "mismatch_max", float(gap.max()))


def _sum(metrics: Metrics, name: str, total: float, count: float) -> None:
    before = metrics.get(name, (0.0, 0.0))
    metrics[name] = (before[0] + total, before[1] + count)


def _largest(metrics: Metrics, name: str, value: float) -> None:
    metrics[name] = (max(metrics.get(name, (0.0, 1.0))[0], value), 1.0)


def named(module: nn.Module, heads: nn.ModuleDict) -> Mapping[str, nn.Parameter]:
    """Everything trained, by name: the model's own and the heads'."""
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return own | {f"head:{name}": p for name, p in heads.named_parameters()}
