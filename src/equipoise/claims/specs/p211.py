from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P211",
    title="Agreement among a model's own answers is reward enough: accuracy rises without labels",
    arxiv="2504.05812",
    says="Rewarding each sample by the share of samples with its answer improves accuracy greatly without labels, "
    "near to what labels give.",
    differs="0.8M parameters instead of 7B; list operations, whose wrong answers agree less often than in the paper's "
    "benchmarks.",
    arms=(ArmSpec("empo"), ArmSpec("grpo")),
    better="empo",
    worse="start",
    matters=0.03,
    also=(Contrast("grpo", "empo"), Contrast("start", "empo", "pass@16")),
    items=150,
    samples=16,
)
