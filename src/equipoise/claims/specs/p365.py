from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P365",
    title="PPO on the samples that a fallible scorer ranks first and last beats PPO on all",
    arxiv="2409.06957",
    says="A reward model is most reliable about the samples it ranks highest or lowest; PPO that learns from those "
    "alone beats PPO on all samples, where the best alone do not suffice.",
    differs="The scorer is the verifier with added normal noise (deviation 0.5), the same in all arms; evaluation "
    "is by the verifier itself. Such noise says nothing of the middle ranks in particular. List operations with 0.8M "
    "parameters instead of programs at 7B. Unused samples are paid for, and save the cost of training on them.",
    arms=(
        ArmSpec("pf_ppo", {"kept": "best+worst"}, "best-worst"),
        ArmSpec("pf_ppo", {"kept": "all"}, "all"),
        ArmSpec("pf_ppo", {"kept": "best"}, "best"),
    ),
    better="best-worst",
    worse="all",
    matters=0.03,
    also=(Contrast("best-worst", "best"), Contrast("best-worst", "start")),
)
