"""One file per method. A recipe is a function ``(task, **arguments) -> Recipe`` named as its file."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, get_args, get_origin

from equipoise.errors import ArgumentError, UnknownName
from equipoise.recipe import About, Recipe
from equipoise.types import Task


@dataclass(frozen=True)
class Method:
    """A recipe with its description. ``arguments``: its keyword arguments, which are its command-line flags."""

    name: str
    about: About
    build: Callable[..., Recipe]
    arguments: dict[str, inspect.Parameter]


def names() -> list[str]:
    """All methods, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def method(name: str) -> Method:
    """One method. Raises UnknownName with the nearest."""
    if name not in names():
        raise UnknownName("method", name, names())
    module = import_module(f"{__name__}.{name}")
    build = getattr(module, name)
    parameters = inspect.signature(build, eval_str=True).parameters
    arguments = {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    return Method(name, module.ABOUT, build, arguments)


def build(name: str, task: Task, **arguments: object) -> Recipe:
    """The recipe of a method on a task. Raises UnknownName for an argument that it does not take,
    ArgumentError for a choice that an argument does not have."""
    found = method(name)
    for given, value in arguments.items():
        if given not in found.arguments:
            raise UnknownName(f"argument of {name}", given, found.arguments)
        kind = found.arguments[given].annotation
        if get_origin(kind) is Literal and value not in get_args(kind):
            *some, last = map(repr, get_args(kind))
            raise ArgumentError(f"{name}: {given}={value!r}: expected {', '.join(some)} or {last}")
    _fits(found, task)
    try:
        return found.build(task, **arguments)
    except ArgumentError as e:
        raise type(e)(f"{name}: {e}") if type(e) is ArgumentError else e from e


_HOLDS: Mapping[str, Callable[[Task], object]] = {
    "verifier": lambda task: task.verify,
    "demonstrations": lambda task: task.demonstrate,
    "pairs": lambda task: task.pair,
}
_IN_A_FILE = {  # how a file of one's own comes to have it
    "verifier": "a verifier is chosen by --task.verifier",
    "demonstrations": "demonstrations are columns prompt and completion, or messages, or rows labelled good",
    "pairs": "pairs are columns prompt, chosen and rejected",
}


def holds(task: Task) -> list[str]:
    """What a task has of "verifier", "demonstrations", "pairs"."""
    return [name for name, held in _HOLDS.items() if held(task) is not None]


def usable(has: Collection[str]) -> list[str]:
    """The methods that can train on a task that ``has`` these."""
    return [name for name in names() if not _lacks(method(name).about, has)]


def _lacks(about: About, has: Collection[str]) -> list[str]:
    """What a method needs and is not given; a need may be "pairs or verifier". Needs of another kind are its own."""
    return [need for need in about.needs if not any(one in has or one not in _HOLDS for one in need.split(" or "))]


def _fits(found: Method, task: Task) -> None:
    """Raises ArgumentError for a task that lacks what the method needs: names both, and the methods that fit."""
    has = holds(task)
    missing = _lacks(found.about, has)
    if not missing:
        return
    fit = ", ".join(usable(has))
    said = f"needs {' and '.join(missing)}, and task {task.name!r} has {', '.join(has) or 'only prompts'}. "
    said += f"What it has can be used by {fit}." if fit else "No method learns from prompts alone."
    if task.name.startswith("file:"):
        said += f" In a file, {'; '.join(_IN_A_FILE[one] for need in missing for one in need.split(' or '))}."
    raise ArgumentError(f"{found.name} {said}")
