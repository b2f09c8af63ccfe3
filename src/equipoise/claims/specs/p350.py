from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P350",
    title="Ranking candidates by their scores beats fine-tuning on the best of them",
    arxiv="2312.05657",
    says="Candidates of a small model ranked by what tests say of them (RRHF) give faster programs than the fine-tuned "
    "models they start from, with less training.",
    differs="Operations on lists, judged right or wrong, instead of programs scored by tests and speed: there are two "
    "levels to rank, not many. The same recipe without its ranking term stands for fine-tuning. 0.8M parameters "
    "instead of 220M; candidates are the model's own, drawn once.",
    arms=(
        ArmSpec("rrhf_code", {}, "ranked"),
        ArmSpec("rrhf_code", {"rank": 0.0}, "best-only"),
        ArmSpec("grpo"),
    ),
    better="ranked",
    worse="best-only",
    matters=0.02,
    also=(Contrast("ranked", "grpo"), Contrast("ranked", "start")),
)
