from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P041",
    title="More samples a prompt, an entropy bonus and a moving anchor do better than few samples",
    arxiv="2501.11651",
    says="Reinforcement learning that explores by many samples a prompt (64), an entropy bonus and a KL to a moving "
    "average of the policy keeps improving, where fewer samples level off.",
    differs="Countdown with 0.8M parameters instead of mathematics at 9B to 32B; 32 samples a prompt against 4, at "
    "equal samples in all and so eight times fewer prompts a step. No supervised stage on trial and self-check; "
    "temperature 1.",
    arms=(
        ArmSpec("t1", {"prompts": 2, "samples": 32}, "many"),
        ArmSpec("t1", {"prompts": 16, "samples": 4}, "few"),
        ArmSpec("t1", {"prompts": 2, "samples": 32, "rate": 0.0, "entropy": 0.0}, "many-fixed"),
    ),
    better="many",
    worse="few",
    matters=0.02,
    also=(
        Contrast("many", "many-fixed"),
        Contrast("many", "few", "pass@16"),
        Contrast("many", "many-fixed", "pass@16"),
        Contrast("many", "start"),
    ),
    task="countdown",
    items=150,
    samples=16,
)
