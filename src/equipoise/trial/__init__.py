"""Trials: arms times seeds at equal budget, paired on the same held-out items, with verdicts."""

from equipoise.trial.runner import ArmSpec, TrialResult, is_trial, resume, trial
from equipoise.trial.statistics import Arm, Verdict, verdicts

__all__ = ["Arm", "ArmSpec", "TrialResult", "Verdict", "is_trial", "resume", "trial", "verdicts"]
