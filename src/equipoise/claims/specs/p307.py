from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P307",
    title="Learning from wrong samples too (NFT) beats rejection-sampling fine-tuning",
    arxiv="2505.18116",
    says="Supervised learning with an implicit negative policy on wrong samples clearly beats fine-tuning on right "
    "samples only, and matches GRPO and DAPO.",
    differs="A model of 0.8M parameters instead of 7B and 32B; short list operations; the RFT arm draws in rounds and "
    "fits several passes, where the paper's is online.",
    arms=(ArmSpec("nft"), ArmSpec("rft"), ArmSpec("grpo")),
    better="nft",
    worse="rft",
    matters=0.03,
    also=(Contrast("nft", "grpo"), Contrast("nft", "start")),
)
