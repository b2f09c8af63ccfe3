from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P152",
    title="Short prompts first, and hard ones again, beat all lengths at once",
    arxiv="2505.17667",
    says="Reinforcement learning in phases of growing input length, with hard prompts of earlier phases drawn again, "
    "is stabler and ends higher than training on long inputs at once.",
    differs="Knights and knaves of two and of three people with 0.8M parameters instead of documents of 20 and 60 "
    "thousand tokens at 32B: longer puzzles are harder, but not long. No supervised stage; a rule alone judges. The "
    "test has both lengths.",
    arms=(
        ArmSpec("qwenlong_l1"),
        ArmSpec("qwenlong_l1", {"replay": 0.0}, "no-replay"),
        ArmSpec("qwenlong_l1", {"phases": 1, "replay": 0.0}, "at-once"),
    ),
    better="qwenlong_l1",
    worse="at-once",
    matters=0.02,
    also=(Contrast("qwenlong_l1", "no-replay"), Contrast("qwenlong_l1", "start")),
    task="knights",
    knobs={"difficulty": 2, "least": 1},
)
