from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P392",
    title="Tapering makes many updates on the same samples safe",
    arxiv="2503.14286",
    says="Off-policy REINFORCE with wrong samples is unstable; weighing wrong samples by a truncated ratio keeps it "
    "stable and efficient without a KL term.",
    differs="Eight passes over each step's samples and not one fixed log; 0.8M parameters instead of 8B; list "
    "operations. Gradient clipping and a tuned learning rate protect the plain arm too.",
    arms=(
        ArmSpec("topr", {"epochs": 8}, "topr"),
        ArmSpec("reinforce", {"epochs": 8}, "reinforce"),
        ArmSpec("topr", {"epochs": 1}, "topr-once"),
    ),
    better="topr",
    worse="reinforce",
    matters=0.05,
    also=(Contrast("topr", "topr-once"), Contrast("topr", "start"), Contrast("reinforce", "start")),
)
