from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P187",
    title="Contrastive policy gradient on logged responses beats learning from preferences",
    arxiv="2406.19185",
    says="Regressing differences of log-ratios on differences of rewards learns the optimal policy from logged samples "
    "without importance weights, and reaches higher rewards than IPO and DPO.",
    differs="Right or wrong instead of a learned reward for summaries: with two values of the reward a pair says "
    "little more than a preference does. DPO draws its own pairs, at most two a prompt, and takes more prompts a step; "
    "IPO is not an arm. List operations with 0.8M parameters instead of 2B.",
    arms=(ArmSpec("copg"), ArmSpec("dpo"), ArmSpec("copg", {"online": True}, "copg-online")),
    better="copg",
    worse="dpo",
    matters=0.03,
    also=(Contrast("copg-online", "copg"), Contrast("copg", "start")),
)
