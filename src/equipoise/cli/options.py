"""Flags made from what they set: a recipe's arguments, a task's knobs, the fields of a budget.

Every flag is one leaf of a flat record, named with dots (``--budget.flops``); tyro parses, checks and explains it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from equipoise import recipes, tasks
from equipoise.budget import UNITS, Budget, Prices, flag
from equipoise.engine.optimiser import Optimiser
from equipoise.errors import ArgumentError, UnknownName
from equipoise.job.settings import Cluster

if TYPE_CHECKING:
    from equipoise.trial.runner import Place

_SUFFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


def number(text: str) -> float:
    """1234, 1e5, 100k, 2.5M, 1_000. Raises ValueError."""
    plain = text.strip().lower().replace("_", "").replace(",", "")
    scale = _SUFFIXES.get(plain[-1:])
    return float(plain[:-1]) * scale if scale else float(plain)


def whole(text: str) -> int:
    """As ``number``, but only whole ones. Raises ValueError."""
    value = number(text)
    if not value.is_integer():  # nor are nan and inf
        raise ValueError(f"{text!r} is not a whole number")
    return int(value)


def _numeric(kind: Any, read: Callable[[str], float], metavar: str) -> Any:
    """A number as tyro knows one, or ``| None`` of it, which only a default can be."""
    optional = type(None) in get_args(kind)

    def parsed(args: list[str]) -> float | None:
        return None if optional and args[0].lower() == "none" else read(args[0])

    spec: Any = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parsed,
        is_instance=lambda x: isinstance(x, int | float) or (optional and x is None),
        str_from_instance=lambda x: ["none" if x is None else f"{x:g}" if isinstance(x, float) else str(x)],
    )
    return Annotated.__class_getitem__((kind, spec))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Flag:
    """One flag: its dotted name without dashes, type, default (``inspect.Parameter.empty``: required) and help."""

    name: str
    type: Any
    default: Any = inspect.Parameter.empty
    help: str = ""
    positional: bool = False

    @property
    def attribute(self) -> str:
        return re.sub(r"\W", "__", self.name) + "_"  # a name may be a keyword of Python: --from


def parse(prog: str, description: str, flags: Sequence[Flag], args: Sequence[str]) -> dict[str, Any]:
    """Values by flag name. Prints help or what is wrong and exits, as command lines do."""
    entries: list[Any] = []
    for f in sorted(flags, key=lambda f: f.default is not inspect.Parameter.empty):
        marks = [tyro.conf.Positional] if f.positional else []
        label = tyro.conf.arg(name=f.name, help=f.help or None, help_behavior_hint=_hint(f))
        kind: Any = Annotated.__class_getitem__((_friendly(f.type), label, *marks))  # type: ignore[attr-defined]
        if f.default is inspect.Parameter.empty:
            entries.append((f.attribute, kind))
        else:
            entries.append((f.attribute, kind, field(default=f.default)))
    record = make_dataclass("Options", entries)
    made: Any = tyro.cli(record, prog=prog, description=description, args=list(args))
    return {f.name: getattr(made, f.attribute) for f in flags}


def _hint(f: Flag) -> str:
    if f.default is inspect.Parameter.empty:
        return "(required)"
    return "" if f.default in (None, ()) else f"(default: {f.default})"


def _friendly(kind: Any) -> Any:
    """Whole numbers and floats that also accept 1e5 and 100k, anywhere in a type."""
    for plain, read, metavar in ((int, whole, "INT"), (float, number, "FLOAT")):
        if kind in (plain, plain | None):
            return _numeric(kind, read, metavar)
    if get_origin(kind) is tuple:
        return tuple.__class_getitem__(tuple(_friendly(a) for a in get_args(kind)))
    return kind


def described(function: Any, names: Sequence[str]) -> dict[str, str]:
    """Help for a function's arguments from its docstring: ``a: text. b, c: text.``"""
    text = " ".join((inspect.getdoc(function) or "").split())
    found: dict[str, str] = {}
    known = "|".join(map(re.escape, names))
    parts = re.split(rf"(?:^|(?<=[\s.]))((?:{known})(?:, (?:{known}))*): ", text) if names else [""]
    for heads, body in zip(parts[1::2], parts[2::2], strict=True):
        found |= {name: body.strip().rstrip(".") for name in heads.split(", ")}
    return found


def of_parameters(prefix: str, parameters: Mapping[str, inspect.Parameter], help: Mapping[str, str]) -> list[Flag]:
    """A flag for each parameter of a function."""
    return [
        Flag(
            prefix + flag(p.name),
            str if p.annotation is p.empty else p.annotation,
            p.default,
            help.get(p.name, ""),
        )
        for p in parameters.values()
    ]


def of_method(name: str, prefix: str = "") -> list[Flag]:
    """The arguments of a recipe."""
    method = recipes.method(name)
    return of_parameters(prefix, method.arguments, described(method.build, list(method.arguments)))


def of_task(args: Sequence[str]) -> list[Flag]:
    """The knobs of the task that ``args`` name with --task, as --task.<knob>; none when none is named."""
    name = value_of("task", args)
    if name is None:
        return []
    knobs = tasks.signature(name)
    help = {knob: text for maker in tasks.makers(name) for knob, text in described(maker, list(knobs)).items()}
    return of_parameters("task.", knobs, help)


def value_of(name: str, args: Sequence[str]) -> str | None:
    """The value of ``--name`` in raw arguments."""
    for i, arg in enumerate(args):
        if arg == f"--{name}" and i + 1 < len(args):
            return args[i + 1]
        if arg.startswith(f"--{name}="):
            return arg.split("=", 1)[1]
    return None


_UNIT_HELP = {
    "generated_tokens": "sampled tokens, the end token included",
    "trained_tokens": "tokens with a loss, once per pass",
    "flops": "2 per parameter and token forward, 6 with backward",
    "usd": "money, by --prices",
    "labels": "demonstrations, preferences and ratings shown",
    "seconds": "wall clock; not bit-reproducible",
}


def of_budget() -> list[Flag]:
    """--budget.<unit> and --prices.<thing>."""
    units = [
        Flag(f"budget.{flag(u)}", (float if u in ("flops", "usd", "seconds") else int) | None, None, _UNIT_HELP[u])
        for u in UNITS
    ]
    return units + [Flag(f"prices.{flag(f.name)}", float, f.default, "USD each") for f in fields(Prices)]


_OPTIMISER_HELP = {
    "clip": "largest norm of the gradient; inf: no clipping",
    "beta1": "memory of the mean gradient",
    "beta2": "memory of the mean squared gradient",
    "eps": "added to the root of the mean squared gradient",
    "weight_decay": "of matrices; norms and biases have none",
}


def of_optimiser() -> list[Flag]:
    """--optimiser.<setting>."""
    return [Flag(f"optimiser.{flag(f.name)}", float, f.default, _OPTIMISER_HELP[f.name]) for f in fields(Optimiser)]


_ENGINES = ("local", "ray")
_CLUSTER_HELP = {
    "learners": "ranks that hold the model between them (default: 1)",
    "samplers": "processes that sample, with a whole model each (default: 1)",
    "sampler": "what they sample with: local, the native sampler, or vllm (default: local)",
    "ray_address": '"auto" or host:port of a running cluster (default: one is started for the run)',
    "retries": "how often to go on by itself from the last checkpoint when a process was lost (default: 3)",
    "deadline_s": "seconds that any answer of a process may take (default: 1800)",
}


def of_engine(default: str | None = "local") -> list[Flag]:
    """--engine and what describes a cluster, which has no defaults here, so that what was given is known."""
    hint = "local: this process; ray: learners and samplers as processes of a Ray cluster"
    kinds = get_type_hints(Cluster)
    own = [Flag(flag(f.name), kinds[f.name] | None, None, f"of ray: {_CLUSTER_HELP[f.name]}") for f in fields(Cluster)]
    return [Flag("engine", str if default else str | None, default, hint), *own]


def cluster(values: Mapping[str, Any], before: Cluster | None = None) -> Cluster | None:
    """What the flags of ``of_engine`` say, of a run that had ``before``. Raises ArgumentError where they contradict."""
    engine = values["engine"] or ("ray" if before else "local")
    if engine not in _ENGINES:
        raise UnknownName("engine", engine, _ENGINES)
    given = {f.name: value for f in fields(Cluster) if (value := values.get(flag(f.name))) is not None}
    if engine == "ray":
        return replace(before or Cluster(), **given)
    if given:
        name, value = next(iter(given.items()))
        raise ArgumentError(
            f"--{flag(name)} {value} describes a cluster, and --engine is local. Add --engine ray, or leave "
            f"--{flag(name)} out."
        )
    return None


def place(values: Mapping[str, Any]) -> Place:
    """Where the jobs of a trial run, by --engine and --ray-address. Raises ArgumentError where they contradict."""
    from equipoise.trial.runner import on_ray
    from equipoise.trial.workers import run_jobs

    of_cluster = cluster(values)
    if of_cluster is None:
        return run_jobs
    for name in ("learners", "samplers", "sampler", "retries", "deadline_s"):
        if values.get(flag(name)) is not None:
            raise ArgumentError(
                f"--{flag(name)} {values[flag(name)]} is of one run, and a trial's runs are a task each, with --engine "
                f"ray too. Leave --{flag(name)} out; --jobs says how many run at a time."
            )
    return on_ray(of_cluster.ray_address)


def under(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values of flags that begin with ``prefix.``, by the rest of their names as Python spells them."""
    start = prefix + "."
    return {k.removeprefix(start).replace("-", "_"): v for k, v in values.items() if k.startswith(start)}


def budget(values: Mapping[str, Any]) -> Budget:
    """The budget that the flags name."""
    return Budget(**under(values, "budget"))


def prices(values: Mapping[str, Any]) -> Prices:
    """The prices that the flags name. Raises ArgumentError for a negative one."""
    found = under(values, "prices")
    for name, price in found.items():
        if price < 0:
            raise ArgumentError(f"--prices.{flag(name)} is {price}; a price cannot be negative")
    return Prices(**found)
