from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P309",
    title="Starting from within demonstrations (reverse curriculum) beats PPO from the bare question",
    arxiv="2402.05808",
    says="Training from states that slide back from the end of right demonstrations to their start beats reinforcement "
    "learning from the question alone, by 4 points on average.",
    differs="Addition with 0.8M parameters instead of mathematics and logic at 7B; the start policy already solves "
    "part of the questions, where a curriculum helps least; all arms but plain PPO are warmed on demonstrations.",
    arms=(ArmSpec("r3"), ArmSpec("r3", {"parts": 0}, "bare"), ArmSpec("ppo")),
    better="r3",
    worse="bare",
    matters=0.03,
    also=(Contrast("r3", "ppo"), Contrast("r3", "start")),
    task="addition",
    knobs={"difficulty": 4},
    budget={"flops": 4e11},
)
