from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P483",
    title="A second stage on unsolved prompts with parts of their solutions given beats one without",
    arxiv="2506.04723",
    says="After GRPO on all prompts, GRPO on those it cannot solve, from 0 to 4 parts of their solutions, adds 2 "
    "points on average over five benchmarks, more than the hard prompts alone.",
    differs="Countdown with 0.8M parameters instead of mathematics at 7B; a solution is one of several and its parts "
    "are characters. What is unsolved is told by 8 samples a prompt, on a tenth of the budget: few prompts.",
    arms=(ArmSpec("sparkle"), ArmSpec("sparkle", {"parts": 0}, "hard-only"), ArmSpec("grpo")),
    better="sparkle",
    worse="hard-only",
    matters=0.02,
    also=(Contrast("sparkle", "grpo"), Contrast("sparkle", "start"), Contrast("sparkle", "grpo", "pass@8")),
    task="countdown",
    budget={"flops": 4e11},
    items=150,
    samples=8,
)
