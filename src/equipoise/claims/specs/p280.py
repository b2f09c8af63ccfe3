from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P280",
    title="Training a first round for what a second makes of it beats GRPO",
    arxiv="2507.02851",
    says="Rewarding the first of several rounds of thinking by the success of the last one gives 3.8 points (MATH500) "
    "and 3.3 (AIME 2024) more than GRPO, with 15% of the samples.",
    differs="Tested on the first round alone, which is all that is trained, and at equal compute: the second rounds "
    "are paid. List operations with 0.8M parameters instead of mathematics at 3B; two rounds instead of three; no "
    "window is too short. The reply is passed on without words, as this model understands none, and it solves fewer "
    "lists in the second round than in the first.",
    arms=(ArmSpec("motif", {"template": "{}", "continuations": 2}, "motif"), ArmSpec("grpo")),
    better="motif",
    worse="grpo",
    matters=0.03,
    also=(Contrast("motif", "start"),),
    budget={"flops": 4e11},
)
