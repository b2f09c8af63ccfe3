from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P447",
    title="Demonstrations and then PPO on the same questions beat demonstrations alone",
    arxiv="2401.08967",
    says="After a short warm-up on demonstrations, reinforcement learning on the very same questions generalises "
    "clearly better than fine-tuning on their demonstrations, without further questions.",
    differs="List operations with 0.8M parameters instead of word problems at 7B. 300 questions, as in the paper one "
    "demonstration each; but these are bare answers of one right form, and hold no reasoning that could have been "
    "another. Sampling costs compute that fine-tuning spends on more passes.",
    arms=(ArmSpec("reft"), ArmSpec("sft"), ArmSpec("ppo")),
    better="reft",
    worse="sft",
    matters=0.03,
    also=(Contrast("reft", "sft", "maj@4"), Contrast("reft", "ppo"), Contrast("reft", "start")),
    knobs={"train": 300},
)
