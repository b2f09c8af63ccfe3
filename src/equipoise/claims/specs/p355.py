from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P355",
    title="Normalising advantages by a Beta density beats GRPO",
    arxiv="2506.02864",
    says="A normalisation that follows the distribution of the prompts' success rates lowers the gradient's variance "
    "and beats REINFORCE and GRPO.",
    differs="0.8M parameters instead of 1.5B and 7B; list operations; the weight of a prompt is limited to 10 instead "
    "of 1e6; eight prompts a step estimate the Beta distribution.",
    arms=(ArmSpec("bnpo"), ArmSpec("grpo"), ArmSpec("dr_grpo")),
    better="bnpo",
    worse="grpo",
    matters=0.02,
    also=(Contrast("bnpo", "dr_grpo"), Contrast("bnpo", "start")),
)
