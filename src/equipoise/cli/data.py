"""equipoise data check FILE --model M: what a file would teach, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from equipoise import recipes
from equipoise.cli import options
from equipoise.cli.options import Flag
from equipoise.errors import UnknownName
from equipoise.tasks.formats import Columns


def main(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print("usage: equipoise data check FILE --model M [--task.test FILE] [--task.chat] [--task.<column> NAME]")
        return 0
    if args[0] != "check":
        raise UnknownName("data command", args[0], ["check"])
    flags = [
        Flag("file", str, help="JSON lines, a JSON list, CSV or Parquet", positional=True),
        Flag("model", str, help="whose tokenizer and chat template are used"),
        Flag("task.test", str | None, None, "a file with the test prompts"),
        *(Flag(f"task.{f.name}", type(f.default), f.default, _help(f.name)) for f in fields(Columns)),
    ]
    v = options.parse("equipoise data check", "Show what a file would teach a model.", flags, args[1:])
    from rich.console import Console

    from equipoise.engine.local import load
    from equipoise.tasks.preview import inspect, render

    report = inspect(v["file"], load(v["model"]), **options.under(v, "task"))
    render(report, Console(), methods(report.form, report.gives))
    return 0


def methods(form: str, gives: Sequence[str]) -> list[str]:
    """Which methods can train on a file of this format that gives these, as it is and with a verifier."""
    now = recipes.usable(gives) if {"demonstrations", "pairs"} & {*gives} else []
    judged = [g for g in gives if form != "labelled" or g != "demonstrations"]  # a verifier judges in place of labels
    more = [m for m in recipes.usable([*judged, "verifier"]) if m not in now]
    return [*([", ".join(now)] if now else []), f"with --task.verifier{' also' * bool(now)}: {', '.join(more)}"]


def _help(name: str) -> str:
    return "put text prompts to the model as a user's turn" if name == "chat" else "name of this column"
