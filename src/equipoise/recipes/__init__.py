"""One file per method. A recipe is a function ``(task, **arguments) -> Recipe`` named as its file."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

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
    """The recipe of a method on a task. Raises UnknownName for an argument that it does not take."""
    found = method(name)
    for given in arguments:
        if given not in found.arguments:
            raise UnknownName(f"argument of {name}", given, found.arguments)
    try:
        return found.build(task, **arguments)
    except ArgumentError as e:
        raise type(e)(f"{name}: {e}") if type(e) is ArgumentError else e from e
