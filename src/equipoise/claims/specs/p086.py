from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P086",
    title="PPO from beginnings that a guide wrote beats plain PPO",
    arxiv="2306.11816",
    says="Letting a guide begin or finish responses beats PPO and supervised learning on sentences from given words, "
    "and the guide itself on film reviews.",
    differs="Addition with 0.8M parameters instead of film reviews and sentences from given words. The guide is no "
    "larger model: it is the start model after demonstrations, which a fifth of the budget pays. Verdicts right or "
    "wrong instead of graded rewards.",
    arms=(ArmSpec("rlgf", {}, "ppo++"), ArmSpec("rlgf", {"way": "d2lols"}, "d2lols"), ArmSpec("ppo"), ArmSpec("sft")),
    better="ppo++",
    worse="ppo",
    matters=0.03,
    also=(Contrast("d2lols", "ppo"), Contrast("ppo++", "sft"), Contrast("ppo++", "start")),
    task="addition",
    knobs={"difficulty": 4},
)
