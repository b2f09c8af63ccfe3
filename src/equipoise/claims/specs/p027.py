from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P027",
    title="Rewards of several budgets make right replies shorter than GRPO's",
    arxiv="2507.15844",
    says="Comparing responses within and across budgets of length cuts tokens by up to 61% and raises accuracy by 3 "
    "points on four benchmarks.",
    differs="Addition with 0.8M parameters instead of mathematics at 1.5B, where scratch work has little to spare: 26 "
    "of at most 36 tokens. No sentence states a budget, because this model solves nothing after one; the subgroups "
    "differ in their rewards alone.",
    arms=(ArmSpec("hbpo", {"sentence": ""}, "hbpo"), ArmSpec("grpo", {"prompts": 4, "samples": 16}, "grpo")),
    better="hbpo",
    worse="grpo",
    metric="length",
    higher=False,
    matters=2.5,
    also=(Contrast("hbpo", "start", "length", higher=False), Contrast("hbpo", "start"), Contrast("hbpo", "grpo")),
    task="addition",
)
