from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P386-smollm2",
    title="Learning from wrong samples alone keeps pass@16 above learning from right ones alone (135M)",
    arxiv="2506.01347",
    says="Negative samples alone improve the base model at every k up to 256; positive samples alone lower pass@k at "
    "large k.",
    differs="A model of 135M parameters instead of 4B to 8B, constraints on short texts instead of competition maths, "
    "16 samples instead of 256, no entropy bonus. A budget of some ten steps for the arm that learns from the many "
    "wrong samples, a few times as many for the other; the default learning rate is not tuned.",
    arms=(
        ArmSpec("psr_nsr", {"weight_right": 0.0, "weight_wrong": 1.0}, "nsr"),
        ArmSpec("psr_nsr", {"weight_right": 1.0, "weight_wrong": 0.0}, "psr"),
    ),
    better="nsr",
    worse="psr",
    metric="pass@16",
    matters=0.05,
    also=(
        Contrast("nsr", "start", "pass@16"),
        Contrast("start", "psr", "pass@16"),
        Contrast("nsr", "start"),
        Contrast("psr", "nsr"),
    ),
    task="instruct",
    model="smollm2",
    budget={"flops": 2.5e13},
    seeds=3,
    items=40,
    samples=16,
    lr_scales=(1.0,),
)
