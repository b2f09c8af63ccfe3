from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P032",
    title="Rewarding right answers at every budget of thinking beats GRPO at the full one",
    arxiv="2505.13438",
    says="Training for being right whenever thinking is cut off, with stretches of a trace credited apart, beats GRPO "
    "at all budgets of thinking, the largest included.",
    differs="Only the largest budget is tested, by whole replies: nothing is cut off in the test. Addition with 0.8M "
    "parameters instead of mathematics at 1.5B; early cuts ask for sums in the head, which the model has not learned. "
    "Summaries are paid from the same budget, so that BRPO sees fewer prompts.",
    arms=(ArmSpec("brpo"), ArmSpec("brpo", {"prior": "base"}, "at-end"), ArmSpec("grpo")),
    better="brpo",
    worse="grpo",
    matters=0.02,
    also=(Contrast("brpo", "at-end"), Contrast("brpo", "grpo", "length", higher=False), Contrast("brpo", "start")),
    task="addition",
    knobs={"difficulty": 2},
)
