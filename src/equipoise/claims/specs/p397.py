from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P397",
    title="A Brier term in the reward makes stated confidences worth believing",
    arxiv="2507.16806",
    says="Rewarding correctness and a proper score of the stated confidence improves calibration greatly at unchanged "
    "accuracy; a binary reward leaves models overconfident.",
    differs="Addition with 0.8M parameters instead of question answering and maths at 7B; the form of a confidence is "
    "taught by demonstrations; no reasoning about uncertainty precedes it. Brier score instead of ECE, which is not a "
    "mean over items.",
    arms=(ArmSpec("rlcr", {"form": "paper"}, "rlcr"), ArmSpec("rlcr", {"form": "none"}, "binary")),
    better="rlcr",
    worse="binary",
    metric="brier",
    higher=False,
    matters=0.05,
    also=(Contrast("binary", "rlcr"),),
    task="confident:addition",
    budget={"flops": 4e11},
    items=150,
    samples=8,
)
