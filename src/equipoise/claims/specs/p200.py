from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P200",
    title="Paying more for unlikely right responses raises pass@k above GRPO's",
    arxiv="2506.02355",
    says="GRPO reinforces what is likely already and gains little at large k; rewarding right responses more the less "
    "likely they were raises pass@k over a wide range of k.",
    differs="Countdown instead of formal proofs, 0.8M parameters, groups of 16 instead of 32. Both arms keep mixed "
    "groups only, with the same KL weight and epochs, so that the rank term alone differs.",
    arms=(
        ArmSpec("unlikeliness", {"samples": 16, "prompts": 4}, "unlikeliness"),
        ArmSpec("unlikeliness", {"samples": 16, "prompts": 4, "weight": 0.0}, "same-without"),
        ArmSpec("grpo", {"samples": 16, "prompts": 4}, "grpo"),
    ),
    better="unlikeliness",
    worse="grpo",
    metric="pass@32",
    matters=0.03,
    also=(
        Contrast("unlikeliness", "same-without", "pass@32"),
        Contrast("start", "grpo", "pass@32"),
        Contrast("unlikeliness", "start", "pass@32"),
        Contrast("grpo", "unlikeliness"),
    ),
    task="countdown",
    items=120,
    samples=32,
)
