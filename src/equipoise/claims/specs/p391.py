from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P391",
    title="Two-stage RL on two attempts (SCoRe) gives better second attempts than plain RL",
    arxiv="2409.12917",
    says="RL on a model's own two attempts, first with the first attempt held, then with a bonus for what the second "
    "gains, makes it correct itself: the gain of the second attempt rises by 15.6 points on MATH and 9.1 on HumanEval.",
    differs="0.8M parameters and list operations. The instruction between the attempts is the question again, because "
    "the start model follows no other; its second attempts are about as good as its first. Both two-turn arms subtract "
    "a group's mean. Replies show no work that could be checked. Second attempts are compared with those of GRPO on "
    "single replies, which sees no second turn, and of two-turn RL without stages and bonus; about 50 updates an arm.",
    arms=(
        ArmSpec("score", {"prompts": 4, "baseline": True}, "score"),
        ArmSpec("score", {"prompts": 4, "baseline": True, "first_share": 0.0, "progress": 0.0}, "two-turns"),
        ArmSpec("grpo", {"prompts": 4}, "grpo"),
    ),
    better="score",
    worse="grpo",
    metric="turn2/pass@1",
    matters=0.03,
    also=(
        Contrast("score", "two-turns", "turn2/pass@1"),
        Contrast("score", "two-turns", "turn2/delta"),
        Contrast("score", "grpo", "turn2/delta"),
        Contrast("score", "start", "turn2/delta"),
        Contrast("score", "grpo", "turn1/pass@1"),
    ),
    task="again:lists",
    budget={"flops": 6e11},
)
