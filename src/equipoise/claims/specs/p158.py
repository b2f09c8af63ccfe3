from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P158",
    title="Setting right responses apart from wrong ones, without weighting by difficulty, beats GRPO",
    arxiv="2505.12366",
    says="A discriminative objective with a constraint on the KL gains 7 points over GRPO and 6 over DAPO on average "
    "over six maths benchmarks, with a stable entropy.",
    differs="0.8M parameters instead of 1.5B; list operations; temperature 1 instead of 0.6; the same constraint on "
    "the KL (1e-4) with far larger steps, so that it may bind more.",
    arms=(ArmSpec("disco"), ArmSpec("disco", {"score": "ratio"}, "disco-ratio"), ArmSpec("grpo"), ArmSpec("dapo")),
    better="disco",
    worse="grpo",
    matters=0.03,
    also=(Contrast("disco-ratio", "grpo"), Contrast("disco", "dapo"), Contrast("disco", "start")),
)
