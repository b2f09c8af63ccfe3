"""A claim small enough to be run in a test."""

from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="micro",
    title="A small one",
    arxiv="0000.00000",
    says="GRPO beats the start model.",
    differs="Everything.",
    arms=(ArmSpec("grpo", {"prompts": 2, "samples": 4}),),
    better="grpo",
    worse="start",
    matters=0.1,
    also=(Contrast("start", "grpo", "truncated"),),
    task="lists",
    knobs={"operation": "max"},
    budget={"flops": 1.2e10},
    seeds=2,
    items=8,
    samples=2,
    lr_scales=(0.5, 1.0),
)
