from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P383",
    title="Preferring another step where a wrong response went wrong beats preferring whole responses",
    arxiv="2406.14532",
    says="Per-step preferences from wrong responses are worth eight times the synthetic data, where preferences "
    "between whole responses gain little or hurt.",
    differs="Equal compute instead of equal data, the continuations that find the step included. Addition with 0.8M "
    "parameters instead of mathematics at 7B; six continuations a prefix, so that many steps are mislabelled.",
    arms=(
        ArmSpec("per_step_dpo"),
        ArmSpec("per_step_dpo", {"parts": 0}, "whole"),
        ArmSpec("rft"),
    ),
    better="per_step_dpo",
    worse="whole",
    matters=0.03,
    also=(Contrast("per_step_dpo", "rft"), Contrast("per_step_dpo", "start")),
    task="addition",
    budget={"flops": 4e11},
)
