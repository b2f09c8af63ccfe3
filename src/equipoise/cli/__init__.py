"""The command line. One module a command; heavy libraries load only in the commands that need them."""

from __future__ import annotations

import errno
import sys
from importlib import import_module

COMMANDS = {
    "train": "post-train a model with one method under a budget",
    "resume": "go on with a run or a trial",
    "trial": "compare methods at equal budget, over seeds, with verdicts",
    "eval": "evaluate a run or a model on a task's test split",
    "report": "write the HTML report and the main plot of a run or a trial",
    "export": "write a trained model as a plain Hugging Face folder",
    "chat": "talk to a run's model or any other",
    "methods": "list the methods, or search them",
    "tasks": "list the tasks, or search them",
    "claims": "what papers say, put to the test: list, smoke, run, show",
    "plan": "what a cluster would do, by simulation: who waits for whom, and what to change",
    "data": "`data check FILE --model M` shows what would be trained on",
}

EXIT_USER, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors that are a user's to mend are printed without a traceback."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] == "--version":
        from equipoise import __version__

        print(f"equipoise {__version__}")
        return 0
    from equipoise.errors import EquipoiseError, UnknownName

    try:
        if args[0] not in COMMANDS:
            raise UnknownName("command", args[0], COMMANDS)
        command = import_module(f"equipoise.cli.{args[0]}")
        return int(command.main(args[1:]) or 0)
    except EquipoiseError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return EXIT_USER if isinstance(e, ValueError | ImportError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_FAILED
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"the disk is full: {e}. What was written before is kept; free some space, then resume.", file=sys.stderr)
        return EXIT_FAILED


def usage() -> str:
    """What ``equipoise --help`` prints."""
    lines = "\n".join(f"  {name:9}{text}" for name, text in COMMANDS.items())
    return f"""usage: equipoise COMMAND ...

Post-train language models from any signal, under a metered budget, and learn which method is worth it.

{lines}

`equipoise COMMAND --help` says more. A first run, on this machine's CPU:
  equipoise train grpo --task addition --model tiny"""
