from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P386",
    title="Learning from wrong samples alone keeps pass@64 above learning from right ones alone",
    arxiv="2506.01347",
    says="Negative samples alone improve the base model at every k up to 256; positive samples alone lower pass@k at "
    "large k.",
    differs="A model of 0.8M parameters instead of 4B to 8B, countdown instead of competition maths, 64 samples "
    "instead of 256, no entropy bonus. Its pass@64 may be near its ceiling at the start.",
    arms=(
        ArmSpec("psr_nsr", {"weight_right": 0.0, "weight_wrong": 1.0}, "nsr"),
        ArmSpec("psr_nsr", {"weight_right": 1.0, "weight_wrong": 0.0}, "psr"),
        ArmSpec("psr_nsr", {"weight_right": 0.1, "weight_wrong": 1.0}, "weighted"),
    ),
    better="nsr",
    worse="psr",
    metric="pass@64",
    matters=0.03,
    also=(
        Contrast("nsr", "start", "pass@64"),
        Contrast("start", "psr", "pass@64"),
        Contrast("weighted", "psr", "pass@64"),
        Contrast("nsr", "start"),
        Contrast("psr", "nsr"),
    ),
    task="countdown",
    items=100,
    samples=64,
    lr_scales=(0.1, 0.3, 1.0),  # in the first result every arm took the lowest of (0.5, 1, 2)
)
