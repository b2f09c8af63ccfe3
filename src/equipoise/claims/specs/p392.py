from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P392",
    title="Tapering makes many updates on the same samples safe",
    arxiv="2503.14286",
    says="Off-policy REINFORCE with wrong samples is unstable; weighing wrong samples by a truncated ratio keeps it "
    "stable and efficient without a KL term.",
    differs="Eight passes over each step's samples and not one fixed log; 0.8M parameters instead of 8B; list "
    "operations. Gradient clipping and a tuned learning rate protect the plain arm too. A first result, compared with "
    "REINFORCE with the batch's mean as its baseline and on larger learning rates, failed: topr collapsed. Here both "
    "arms have the same baseline (0.5, rewards of both signs) and a grid that reaches lower.",
    arms=(
        ArmSpec("topr", {"epochs": 8}, "tapered"),
        ArmSpec("topr", {"epochs": 8, "taper": False}, "plain"),
        ArmSpec("topr", {"epochs": 1}, "tapered-once"),
    ),
    better="tapered",
    worse="plain",
    matters=0.05,
    also=(Contrast("tapered", "tapered-once"), Contrast("tapered", "start"), Contrast("plain", "start")),
    lr_scales=(0.05, 0.2, 1.0),
)
