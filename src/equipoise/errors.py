"""Every error a user can meet. Each also inherits the standard exception it refines.

A message says what was got, what was expected, where, and how to fix it.

    EquipoiseError
      ArgumentError (ValueError)       arguments that are wrong or contradict each other
      UnknownName (ArgumentError)      a name that nothing has; suggests the nearest
      DataError (ValueError)           the user's data; cites file, row and column
      ModelError (ValueError)          a model that cannot be loaded or cannot do what is asked
        TooLong                        a prompt, or a prompt with its reply, longer than the model's context
      MissingExtra (ImportError)       an optional package; says the command that installs it
      BudgetError (ValueError)         a budget that cannot be spent or is below one step
      VerifierFailure (RuntimeError)   too large a share of verdicts failed (never a reward of 0)
      PreflightStop (RuntimeError)     eight prompts showed that the run would be wasted
      Diverged (RuntimeError)          NaN or infinity in a loss, gradient or weight
      Mismatch (RuntimeError)          a sampler computes something else than the learner
      PeerLost (RuntimeError)          a process of a cluster died, or did not answer in time
      RecordError (RuntimeError)       a run directory or checkpoint that is damaged, foreign or in use
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class EquipoiseError(Exception):
    """Base of all errors raised on purpose; the command line prints its message without a traceback."""

    def __reduce__(self) -> tuple[Callable[..., EquipoiseError], tuple[type[EquipoiseError], tuple[object, ...]]]:
        return _again, (type(self), self.args)  # an error may cross processes; its arguments are the message


def _again(kind: type[EquipoiseError], args: tuple[object, ...]) -> EquipoiseError:
    error = kind.__new__(kind)
    error.args = args
    return error


class ArgumentError(EquipoiseError, ValueError):
    """Arguments that are wrong or contradict each other."""


class UnknownName(ArgumentError):
    """A method, task, model, metric or option that does not exist."""

    def __init__(self, kind: str, got: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names)}."
        super().__init__(f"no {kind} is called {got!r}. {hint}")


class DataError(EquipoiseError, ValueError):
    """The user's data is not what it should be; cites file, row and column."""


class ModelError(EquipoiseError, ValueError):
    """A model that cannot be loaded, or cannot do what is asked of it."""


class TooLong(ModelError):
    """A prompt, or a prompt with its reply, that is longer than the model's context."""


class MissingExtra(EquipoiseError, ImportError):
    """An optional package is not installed."""

    def __init__(self, what: str, command: str) -> None:
        super().__init__(f"{what} is not installed. Install it with:\n    {command}")


class BudgetError(EquipoiseError, ValueError):
    """A budget that the method cannot spend, or that is below one step's smallest cost."""


class VerifierFailure(EquipoiseError, RuntimeError):
    """Too large a share of the verdicts were timeouts or errors."""


class PreflightStop(EquipoiseError, RuntimeError):
    """The preflight found that the run would be wasted; says why and how to override."""


class Diverged(EquipoiseError, RuntimeError):
    """NaN or infinity in a loss, a gradient or a weight."""


class Mismatch(EquipoiseError, RuntimeError):
    """A sampler's log-probs are not the learner's: what it samples would not be the policy that is trained."""


class PeerLost(EquipoiseError, RuntimeError):
    """A process of a cluster died, or did not answer within its deadline; says which one."""


class RecordError(EquipoiseError, RuntimeError):
    """A run directory or checkpoint that is damaged, foreign, in use or already there."""
