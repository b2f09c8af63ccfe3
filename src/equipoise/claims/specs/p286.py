from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P286",
    title="Regression on optimal advantages with one sample a prompt does better than GRPO for the same compute",
    arxiv="2505.20686",
    says="With values of the start policy estimated once, one sample a prompt suffices: accuracy like GRPO's in up to "
    "half the time.",
    differs="The paper claims equal accuracy in less time, tested here as higher accuracy at equal compute, the "
    "offline samples included. 0.8M parameters, list operations, where the start policy's values age fast.",
    arms=(ArmSpec("a_star_po"), ArmSpec("grpo"), ArmSpec("reinforce")),
    better="a_star_po",
    worse="grpo",
    matters=0.02,
    also=(Contrast("a_star_po", "reinforce"), Contrast("a_star_po", "start")),
)
