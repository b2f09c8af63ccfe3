from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

TAUGHT = {"warm": 0.4, "demonstrations": 8}

CLAIM = Claim(
    id="P397",
    title="A Brier term in the reward makes stated confidences worth believing",
    arxiv="2507.16806",
    says="Rewarding correctness and a proper score of the stated confidence improves calibration greatly at unchanged "
    "accuracy; a binary reward leaves models overconfident.",
    differs="List operations with 0.8M parameters instead of question answering and maths at 7B; the form of a "
    "confidence is taught by demonstrations for 40% of the budget in both arms, with confidences that mean nothing; no "
    "reasoning about uncertainty precedes it. Brier score instead of ECE, which is not a mean over items.",
    arms=(ArmSpec("rlcr", {"form": "paper", **TAUGHT}, "rlcr"), ArmSpec("rlcr", {"form": "none", **TAUGHT}, "binary")),
    better="rlcr",
    worse="binary",
    metric="brier",
    higher=False,
    matters=0.05,
    also=(Contrast("binary", "rlcr"),),
    task="confident:lists",
    budget={"flops": 8e11},
    items=150,
    samples=8,
    lr_scales=(1.0, 2.0),
)
