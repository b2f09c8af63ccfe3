from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P175",
    title="Sparing the right steps of wrong responses gets more from the same log",
    arxiv="2505.14403",
    says="An offline policy gradient that does not push down the right steps within wrong responses beats one that "
    "blames all their tokens alike, and fine-tuning on right responses only.",
    differs="Additions of four digits with 0.8M parameters instead of long reasoning at 7B; the task says which steps "
    "are right, where the paper has a judge and a reward model that must agree; right steps get no blame and no "
    "praise; one round. Equal compute instead of an equal log.",
    arms=(
        ArmSpec("bcpg_nsa", {"mining": 0.0}, "spared"),
        ArmSpec("bcpg_nsa", {"mining": 1.0}, "uniform"),
        ArmSpec("rft", {"rounds": 1}, "rft"),
    ),
    better="spared",
    worse="uniform",
    matters=0.02,
    also=(Contrast("spared", "rft"), Contrast("spared", "start")),
    task="addition",
    knobs={"difficulty": 4},
    budget={"flops": 4e11},
)
