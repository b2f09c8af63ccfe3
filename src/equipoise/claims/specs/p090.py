from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P090",
    title="A policy gradient with the right weights for its KL term does better than GRPO",
    arxiv="2505.17508",
    says="Gradients derived for each form of the KL divergence, with importance weights, are stable and competitive "
    "with or better than GRPO, REINFORCE++ and DAPO.",
    differs="Competitive or better is tested as better. 0.8M parameters, list operations; at a weight of 1e-4 the KL "
    "term is almost nothing, as in the paper; ratios of tokens stand for those of responses.",
    arms=(ArmSpec("rpg"), ArmSpec("grpo", {"kl": 0.001, "minibatches": 4}, "grpo"), ArmSpec("reinforce_pp")),
    better="rpg",
    worse="grpo",
    matters=0.02,
    also=(Contrast("rpg", "reinforce_pp"), Contrast("rpg", "start")),
)
