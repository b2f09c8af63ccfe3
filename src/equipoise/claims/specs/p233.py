from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P233",
    title="Less KL for right answers to hard prompts and more blame for long wrong ones beat GRPO",
    arxiv="2506.21655",
    says="Making the KL term of right answers weaker the harder the prompt, and pressing long wrong answers harder, "
    "raises accuracy over plain GRPO with a KL term, keeps the entropy up and replies shorter.",
    differs="Lists of digits and 0.8M parameters instead of pictures at 3B; a weight of the KL of 0.05 instead of "
    "0.001 and 1.2 instead of 1.00001 as the base of the length term, because in these short runs of short replies "
    "the paper's values do nothing. No second task shows what is forgotten.",
    arms=(
        ArmSpec("apo", {"kl": 0.05, "base": 1.2}, "apo"),
        ArmSpec("grpo", {"kl": 0.05}, "grpo-kl"),
        ArmSpec("grpo"),
    ),
    better="apo",
    worse="grpo-kl",
    matters=0.02,
    also=(
        Contrast("apo", "grpo"),
        Contrast("apo", "grpo", "pass@8"),
        Contrast("apo", "grpo-kl", "length", higher=False),
        Contrast("apo", "start"),
    ),
    items=150,
    samples=8,
)
