from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P170",
    title="Leaving out prompts that the last epoch solved beats drawing all of them again",
    arxiv="2504.14286",
    says="Dropping, at the end of an epoch, the prompts whose samples were all right keeps updates effective and "
    "raises accuracy beyond GRPO's, with hard prompts kept that dynamic sampling would discard.",
    differs="Tests the resampling alone and not the two stages of mathematics and programs. 128 prompts, so that there "
    "are some ten epochs; a gain on these may be one of memory. List operations with 0.8M parameters instead of 32B. "
    "GRPO takes its mean over responses and clips evenly; DAPO shares the higher clip and the mean over tokens.",
    arms=(ArmSpec("srpo", {"pool": 0}, "srpo"), ArmSpec("grpo"), ArmSpec("dapo")),
    better="srpo",
    worse="grpo",
    matters=0.03,
    also=(Contrast("srpo", "dapo"), Contrast("srpo", "start")),
    knobs={"train": 128},
)
