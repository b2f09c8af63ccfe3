"""A report on the terminal. Nothing of the data reaches it raw: control characters are written out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from equipoise.tasks.preview.report import QUANTILES, Report, Span

WIDTH = 400  # tokens shown of a row


def printable(text: str) -> str:
    """``text`` with every character that could steer a terminal or reorder a line written out as an escape."""
    return "".join(c if c == "\n" or not _steers(c) else c.encode("unicode_escape").decode() for c in text)


def _steers(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def render(report: Report, console: Console, methods: Sequence[str] = ()) -> None:
    """Print a report: what was found, what needs attention, and a few rows as the model would see them.

    ``methods``: lines that say which methods can train on it."""
    marks = ("", "") if console.color_system else ("[[", "]]")  # without colour, trained tokens stand in brackets
    console.print(_facts(report, methods))
    for name, spans in report.examples:
        console.print(
            Panel(_coloured(spans, marks), title=Text(printable(name)), title_align="left", border_style="dim")
        )
    if report.replies:
        trained = (f"{marks[0]}trained{marks[1]}", TRAINED)
        special = ", special ones reversed" if console.color_system else ""
        console.print(Text.assemble("tokens: ", trained, ", ", ("read only", READ), special))
    for hint in report.hints():
        console.print(Text(f"note: {printable(hint)}", style="yellow"))
    problems = report.problems()
    for problem in problems:
        console.print(Text(f"! {printable(problem)}", style="bold red"))
    if not problems:
        console.print(Text("Nothing needs attention.", style="green"))


TRAINED, READ, MARK = "black on green", "dim", "reverse"


def _facts(report: Report, methods: Sequence[str]) -> Group:
    facts = Table(show_header=False, box=None, pad_edge=False)
    replies = f"{report.replies:,} replies" if report.replies else "prompts only"
    ends = "every reply ends with a trained end token" if report.replies and not report.without_end else "see below"
    facts.add_row("file", Text(printable(report.path)))
    facts.add_row("format", f"{report.form}, prompts {'through the chat template' if report.chat else 'as plain text'}")
    facts.add_row("gives", ", ".join(["prompts", *report.gives]))
    for name, line in zip(["methods", *[""] * len(methods)], methods, strict=False):
        facts.add_row(name, line)
    facts.add_row("rows", f"{report.rows:,}: " + ", ".join(f"{n:,} {name}" for name, n in report.splits.items()))
    facts.add_row("other columns", Text(printable(", ".join(report.columns) or "none")))
    facts.add_row("model", Text(f"{printable(report.model)}, reads {report.context:,} tokens"))
    facts.add_row("tokenised", f"{report.checked:,} of {report.rows:,} rows; {replies}")
    if report.replies:
        facts.add_row("end tokens", ends)
    facts.add_row("repeated", f"{report.duplicates:,} rows, {report.repeated_prompts:,} prompts")
    heads = ("longest" if q == 100 else f"{q}% have at most" for q in QUANTILES)
    lengths = Table("tokens", *heads, box=None, pad_edge=False)
    for name, found in report.lengths.items():
        lengths.add_row(name, *(f"{n:,}" for n in found))
    return Group(facts, Text(), lengths, Text())


def _coloured(spans: Sequence[Span], marks: tuple[str, str]) -> Text:
    """Trained tokens on green, the rest dim, special tokens reversed; the middle of a long row is left out."""
    text = Text()
    total, done, skipped = sum(s.tokens for s in spans), 0, 0
    for before, span in zip([None, *spans], spans, strict=False):
        if done > WIDTH and total - done > WIDTH // 4:
            skipped += span.tokens
        else:
            if skipped:
                text.append(f" ... {skipped:,} tokens ... ", style="italic")
                skipped = 0
            if span.trained != (before is not None and before.trained):
                text.append(marks[0] if span.trained else marks[1])
            shown = printable(span.text if len(span.text) < 6 * WIDTH else f"{span.text[: 3 * WIDTH]} ... ")
            text.append(shown, style=f"{TRAINED if span.trained else READ}{' ' + MARK if span.special else ''}")
        done += span.tokens
    if spans and spans[-1].trained:
        text.append(marks[1])
    return text
