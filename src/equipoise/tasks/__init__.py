"""Tasks by name. Each is one module with ``task(**knobs) -> Task``, imported only when it is asked for.

``reasoning_gym:<name>``, ``confident:<task>``, ``again:<task>``, ``mentioned:<task>`` and ``file:<path>`` pass what
follows the colon as the first argument.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from equipoise.errors import ArgumentError, UnknownName
from equipoise.tasks.procedural import between
from equipoise.types import Task


@dataclass(frozen=True)
class TaskEntry:
    """A line of ``equipoise tasks``. ``knobs``: name -> default."""

    name: str  # as on the command line
    title: str
    summary: str
    knobs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    module: str
    title: str
    summary: str
    argument: str = ""  # what follows the colon


_TASKS: Mapping[str, _Known] = {
    "addition": _Known("addition", "Addition", "Add two numbers digit by digit, with scratch work."),
    "countdown": _Known("countdown", "Countdown", "Reach a number from given numbers with + - * /."),
    "lists": _Known("lists", "List operations", "Sort, reverse, filter, count or sum a short list."),
    "knights": _Known("knights", "Knights and knaves", "Find who tells the truth from what each person says."),
    "facts": _Known("facts", "Facts in a context", "Answer from a context, in a sentence and in a word."),
    "sql": _Known("sql", "Questions to a table", "Answer questions by a query, executed on random databases."),
    "instruct": _Known("instruct", "Instruction following", "Natural-language prompts with verifiable constraints."),
    "reasoning_gym": _Known("gym", "Reasoning Gym", "Any task of the reasoning-gym library.", "name"),
    "confident": _Known("confident", "With a confidence", "Another task whose replies end with a percentage.", "task"),
    "again": _Known("again", "Asked again", "Another task with a further attempt after each reply.", "task"),
    "mentioned": _Known("mentioned", "A verifier with a hole", "Another task that only looks for the answer.", "task"),
    "file": _Known("file", "Your own data", "JSON, CSV or Parquet in the ecosystem's formats.", "path"),
}


def load(name: str, *, max_new_tokens: int | None = None, **knobs: Any) -> Task:
    """The task called ``name``. Raises UnknownName (with the nearest) for a name or a knob that does not exist.

    max_new_tokens: longest reply that is sampled, in tokens (none: the task's own).
    """
    function, arguments = _find(name)
    allowed = signature(name)
    if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
        for knob in knobs:
            if knob not in allowed:
                raise UnknownName(f"knob of task {name}", knob, allowed)
    made = function(*arguments, **knobs)
    if max_new_tokens is None:
        return made
    between("task.max_new_tokens", max_new_tokens, 1, 1_000_000)
    return replace(made, max_new_tokens=max_new_tokens)


def signature(name: str) -> Mapping[str, inspect.Parameter]:
    """The knobs of a task, with evaluated annotations and defaults; of a dataset of reasoning_gym its own as well."""
    function, arguments = _find(name, need_argument=False)
    parameters = [p for f in (function, load) for p in inspect.signature(f, eval_str=True).parameters.values()]
    found = {p.name: p for p in parameters if p.default is not p.empty}
    more = getattr(inspect.getmodule(function), "parameters", None)
    return {**found, **more(*arguments)} if more and any(arguments) else found


def makers(name: str) -> list[Callable[..., Task]]:
    """The functions whose docstrings explain the knobs of a task, and of the task within it."""
    function, arguments = _find(name, need_argument=False)
    within = any(arguments) and _TASKS[name.partition(":")[0]].argument == "task"
    return [function, *(makers(*arguments) if within else [load])]


def catalog() -> list[TaskEntry]:
    """Every task with its knobs. Loads neither torch nor transformers nor reasoning_gym."""
    return [_entry(name, known) for name, known in _TASKS.items()]


def datasets() -> list[TaskEntry]:
    """Every dataset of reasoning_gym with the knobs that all have; none without the library, which is not loaded."""
    from equipoise.tasks.gym import library

    general = _entry("reasoning_gym", _TASKS["reasoning_gym"])
    return [
        TaskEntry(f"reasoning_gym:{name}", name.replace("_", " ").capitalize(), "Of Reasoning Gym.", general.knobs)
        for name in library.listed()
    ]


def _entry(name: str, known: _Known) -> TaskEntry:
    shown = f"{name}:<{known.argument}>" if known.argument else name
    return TaskEntry(shown, known.title, known.summary, {k: p.default for k, p in signature(name).items()})


def _find(name: str, need_argument: bool = True) -> tuple[Callable[..., Task], tuple[str, ...]]:
    """The function that makes the task, and its first argument if the name carries one."""
    head, _, rest = name.partition(":")
    known = _TASKS.get(head)
    if known is None:
        raise UnknownName("task", name, [f"{n}:<{k.argument}>" if k.argument else n for n, k in _TASKS.items()])
    if known.argument and not rest and need_argument:
        raise ArgumentError(f"task {head!r} needs a {known.argument}: write {head}:<{known.argument}>")
    if rest and not known.argument:
        raise ArgumentError(f"task {head!r} takes nothing after a colon, got {name!r}: knobs are --task.<knob> VALUE")
    function: Callable[..., Task] = importlib.import_module(f"equipoise.tasks.{known.module}").task
    return function, ((rest,) if known.argument else ())
