from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P265",
    title="Rewarding what can be found again in the long answer keeps it true to the context",
    arxiv="2505.16483",
    says="Rewards for the short answer, and for a long answer from which it can be found again, make both forms "
    "faithful to the context; with the short answer's reward alone the long form falls behind.",
    differs="Sentences on where two people live, with 0.8M parameters, instead of synthetic questions at 7B; nothing "
    "that the model knows contradicts the context, and the short answer can be copied from the long one. All arms "
    "learn the form from demonstrations first. Faithful: all that is said is in the context. No learning rate is "
    "tuned, because a run on less of the budget ends within the demonstrations.",
    arms=(ArmSpec("canoe", {"warm": 0.3}, "canoe"), ArmSpec("canoe", {"warm": 0.3, "long": False}, "short-only")),
    better="canoe",
    worse="short-only",
    metric="parts/faithful",
    matters=0.05,
    also=(Contrast("canoe", "short-only"), Contrast("canoe", "short-only", "length")),
    task="facts",
    budget={"flops": 6e11},
    lr_scales=(1.0,),
    smoke_share=0.5,
)
