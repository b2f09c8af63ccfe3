from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P076",
    title="A Bellman residual at every token of unpaired responses beats one residual a response",
    arxiv="2505.11081",
    says="Q-learning on the logits, made consistent at every token, learns offline from single scored responses, "
    "without pairs or a critic, and does as well as or better than contrastive methods on whole responses.",
    differs="As well or better is tested as better. Additions of three digits with 0.8M parameters instead of chat and "
    "tool use at 7B; one reward at the end, where a residual at every token has least to add; the same strength of "
    "the tie to the start policy (0.1) in all arms.",
    arms=(ArmSpec("shiq"), ArmSpec("copg"), ArmSpec("dpo")),
    better="shiq",
    worse="copg",
    matters=0.02,
    also=(Contrast("shiq", "dpo"), Contrast("shiq", "start")),
    task="addition",
    budget={"flops": 4e11},
)
