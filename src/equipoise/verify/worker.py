"""The process in which a verifier runs: ``python -m equipoise.verify.worker FD``. It imports nothing heavy itself.

It reads ``(target, options)`` and then lists of items from its end of a pipe, and answers each with JSON. Calls run
on the main thread, so functions that set signals work. Three things end it: the parent's kill, the closing of the
pipe, and a watchdog in C that needs no interpreter lock, should the parent be gone while a call hangs.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import importlib.util
import inspect
import json
import os
import queue
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from equipoise.verify import verdicts
from equipoise.verify.verdicts import Item, Options, Verdict

Judge = Callable[[Sequence[Item], Options], list[Verdict]]


def main(fd: int) -> None:
    """Serve until the pipe closes."""
    pipe = Connection(fd)
    mail: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, mail), daemon=True).start()
    target, options, start_s, call_s = mail.get()
    judge: list[Judge] = []
    _answer(pipe, start_s, lambda: judge.append(load(target, options)))
    while True:
        items = mail.get()
        _answer(pipe, call_s, lambda items=items: [asdict(v) for v in judge[0](items, options)])  # type: ignore[misc]


def _listen(pipe: Connection, mail: queue.SimpleQueue[Any]) -> None:
    """Put what arrives into ``mail``; without a parent there is nothing to live for."""
    while True:
        try:
            mail.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)


def _answer(pipe: Connection, most_s: float, work: Callable[[], Any]) -> None:
    """Boundary: whatever the user's code raises becomes a message. After ``most_s`` seconds the process ends."""
    faulthandler.dump_traceback_later(most_s, exit=True)
    try:
        reply = {"verdicts": work()}
    except BaseException as fault:  # noqa: BLE001 - also SystemExit and KeyboardInterrupt of the user's code
        reply = {"fault": f"{type(fault).__name__}: {fault}"}
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    pipe.send_bytes(json.dumps(reply).encode())


def load(target: str, options: Options) -> Judge:
    """``package.module:function`` or ``path/to/file.py:function`` as a judge."""
    place, _, name = target.rpartition(":")
    module = _from_file(place) if place.endswith(".py") else importlib.import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"{place} has no function called {name!r}")
    if not place.startswith("equipoise."):
        return _reward(function, options)
    judge: Judge = function
    judge([], options)  # what it imports and prepares is part of loading, not of the first call
    return judge


def _from_file(place: str) -> ModuleType:
    """A module from its file, once; files beside it can be imported by it."""
    path = Path(place).resolve()
    name = f"equipoise_verifier_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"{place} is no Python file")
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # first: dataclasses look up the module that they are defined in
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reward(function: Callable[..., Any], options: Options) -> Judge:
    """A reward function of the usual signature as a judge of items. Raises TypeError for a column that is not there."""
    parameters = inspect.signature(function).parameters
    greedy = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    columns = options.get("columns")
    if columns is not None:
        needed = {p.name for p in parameters.values() if p.default is p.empty and p.kind not in _VARIADIC}
        missing = sorted(needed - {"prompts", "completions", "answer", *columns})
        if missing:
            raise TypeError(f"it needs {', '.join(missing)}; the data has prompts, completions, {', '.join(columns)}")

    def judge(items: Sequence[Item], options: Options) -> list[Verdict]:
        given = _arguments(items)
        returned = function(**(given if greedy else {k: v for k, v in given.items() if k in parameters}))
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
        return verdicts.from_reward(returned, len(items), float(options.get("right_at", 1.0)))

    return judge


_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def _arguments(items: Sequence[Item]) -> dict[str, list[Any]]:
    """What a reward function is given: completions of chat prompts are lists of one message, as in other trainers."""
    names = dict.fromkeys(name for i in items for name in i.columns)
    return {
        **{name: [i.columns.get(name) for i in items] for name in names},
        "answer": [i.answer for i in items],
        "prompts": [i.prompt for i in items],
        "completions": [
            i.text if isinstance(i.prompt, str) else [{"role": "assistant", "content": i.text}] for i in items
        ],
    }


async def _awaited(returned: Awaitable[Any]) -> Any:
    return await returned


if __name__ == "__main__":
    main(int(sys.argv[1]))
