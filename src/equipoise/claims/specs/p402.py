from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P402",
    title="Reinforcement learning on a single prompt raises held-out accuracy",
    arxiv="2504.20571",
    says="GRPO on copies of one well-chosen problem doubles the accuracy on held-out maths problems, about as much as "
    "training on 1,200 problems does.",
    differs="List operations with 0.8M parameters instead of maths at 1.5B and 7B; the one prompt asks for one of five "
    "operations. 30% of the budget goes into finding it, in each seed anew. Temperature 1 instead of 0.6. The arm that "
    "rewards any readable answer shows how much of a gain is that of the form.",
    arms=(
        ArmSpec("one_shot_rlvr", {}, "one"),
        ArmSpec("one_shot_rlvr", {"reward": "format"}, "one-format"),
        ArmSpec("grpo", {"kl": 0.001}, "many"),
    ),
    better="one",
    worse="start",
    matters=0.05,
    also=(Contrast("one", "one-format"), Contrast("many", "one"), Contrast("start", "one", "pass@16")),
    items=150,
    samples=16,
)
