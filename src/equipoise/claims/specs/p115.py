from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P115",
    title="Two tricks (group mean with batch deviation, token mean) beat GRPO",
    arxiv="2508.08221",
    says="PPO's clipped loss without a critic, with advantages divided by the deviation over the whole batch and a "
    "mean over tokens, beats GRPO and DAPO consistently.",
    differs="0.8M parameters instead of 4B and 8B, replies of a few tokens, where a mean over tokens and one over "
    "responses hardly differ.",
    arms=(ArmSpec("lite_ppo"), ArmSpec("grpo"), ArmSpec("dapo")),
    better="lite_ppo",
    worse="grpo",
    matters=0.02,
    also=(Contrast("lite_ppo", "dapo"), Contrast("lite_ppo", "start")),
)
