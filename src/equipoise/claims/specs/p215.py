from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P215",
    title="Rewards by rules, easy puzzles first, teach logic puzzles",
    arxiv="2502.14768",
    says="Reinforcement learning with a strict reward by rules (form and answer) on five thousand knights-and-knaves "
    "puzzles converges stably, and the model solves puzzles and even maths problems that it could not.",
    differs="Only puzzles of the kinds trained on are tested (two or three people, instead of three to seven), not the "
    "transfer to mathematics; 0.8M parameters instead of 7B, whose start solves a third of them. No thinking and no "
    "tags: the form holds where an answer can be read.",
    arms=(
        ArmSpec("logic_rl"),
        ArmSpec("logic_rl", {"curriculum": False}, "mixed"),
        ArmSpec("reinforce_pp", {}, "plain-verdicts"),
    ),
    better="logic_rl",
    worse="start",
    matters=0.05,
    also=(Contrast("logic_rl", "mixed"), Contrast("logic_rl", "plain-verdicts"), Contrast("mixed", "plain-verdicts")),
    task="knights",
    knobs={"difficulty": 2, "least": 1},
)
