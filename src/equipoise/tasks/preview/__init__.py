"""What a file would teach a model, before any training: ``equipoise data check FILE --model M``.

:func:`inspect` reads the file as ``file:`` would and tokenises rows with the model's own engine; :func:`render` shows
the outcome. Nothing of the data reaches a terminal raw: control characters are written out.
"""

from __future__ import annotations

from equipoise.tasks.preview.page import printable, render
from equipoise.tasks.preview.report import Report, Span, inspect

__all__ = ["Report", "Span", "inspect", "printable", "render"]
