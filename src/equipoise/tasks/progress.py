"""Progress of work on a user's data: silent while it is quick, then a bar, or events to whoever listens.

A run has a display of its own: it listens (:func:`heard_by`) and hears {"event": "reading", "what", "done", "total"}.
Where nobody listens, a bar appears on stderr if that is a terminal, and nothing does otherwise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

WAIT_S = 3.0  # work that ends within this shows nothing
EVERY_S = 0.2  # between two events

T = TypeVar("T")
Hear = Callable[[Mapping[str, Any]], None]

_listener: ContextVar[Hear | None] = ContextVar("listener of progress", default=None)


@contextmanager
def heard_by(hear: Hear) -> Iterator[None]:
    """Within it, progress goes to ``hear`` and to no bar."""
    token = _listener.set(hear)
    try:
        yield
    finally:
        _listener.reset(token)


def watched(items: Iterable[T], what: str, total: float, done: Callable[[], float] | None = None) -> Iterator[T]:
    """``items`` as they are. ``done()`` says how far the work is, in the unit of ``total``; without it, items count."""
    tell: Hear | None = None
    close: Callable[[], None] = _nothing
    next_at = time.monotonic() + WAIT_S
    try:
        for count, item in enumerate(items):
            if (now := time.monotonic()) >= next_at:
                if tell is None:
                    tell, close = _display(what)
                tell({"event": "reading", "what": what, "done": done() if done else count, "total": total})
                next_at = now + EVERY_S
            yield item
    finally:
        close()


def _nothing(*_: object) -> None:
    """Nobody watches."""


def _display(what: str) -> tuple[Hear, Callable[[], None]]:
    """Who is told of progress, and how that ends: the listener, a bar of our own, or nobody."""
    listener = _listener.get()
    if listener is not None:
        return listener, _nothing
    if not sys.stderr.isatty():
        return _nothing, _nothing
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    bar.start()
    task = bar.add_task(what)
    return lambda e: bar.update(task, completed=e["done"], total=e["total"]), bar.stop
