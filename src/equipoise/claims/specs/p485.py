from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P485",
    title="Imitating own attempts with a better last one (RISE) beats imitating right replies on the second attempt",
    arxiv="2407.18219",
    says="Models trained on their own attempts, weighed by reward and with the last reply improved, get better from "
    "turn to turn and do more with the same number of samples than single-turn methods.",
    differs="0.8M parameters and list operations; two attempts instead of five; a better reply is the best of 8 own "
    "ones, no teacher. The user says the question again, because the start model follows no other feedback, and "
    "evaluations ask again after right replies too, which training does not. Compared on the second attempt with "
    "rejection-sampling fine-tuning on single replies, not with parallel samples under a vote.",
    arms=(ArmSpec("rise", {}, "rise"), ArmSpec("rft", {}, "rft")),
    better="rise",
    worse="rft",
    metric="turn2/pass@1",
    matters=0.03,
    also=(
        Contrast("rise", "start", "turn2/delta"),
        Contrast("rise", "rft", "turn2/delta"),
        Contrast("rise", "start", "turn2/pass@1"),
        Contrast("rise", "start", "turn1/pass@1"),
    ),
    task="again:lists",
    budget={"flops": 4e11},
)
