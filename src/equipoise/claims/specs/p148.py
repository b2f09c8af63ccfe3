from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P148",
    title="Entropy minimisation alone raises accuracy, without labels",
    arxiv="2505.15134",
    says="Making a model surer of its own samples, with no labels, improves it about as much as GRPO or RLOO with 60 "
    "thousand labels.",
    differs="0.8M parameters instead of 7B; list operations; rewards by likelihood (the sequence form). Part of the "
    "gain is that of a lower temperature. Diversity is expected to fall, which pass@64 shows.",
    arms=(ArmSpec("em"), ArmSpec("em", {"form": "ft"}, "em-ft"), ArmSpec("grpo")),
    better="em",
    worse="start",
    matters=0.03,
    also=(
        Contrast("start", "em", "pass@64"),
        Contrast("em-ft", "start"),
        Contrast("grpo", "em"),
        Contrast("grpo", "em", "pass@64"),
    ),
    items=100,
    samples=64,
)
