from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P279",
    title="Mixed prompts and a reward for brevity beat hard prompts alone under a small budget",
    arxiv="2503.16219",
    says="A small reasoner gains much within a small budget; easy prompts among hard ones, and a reward that falls "
    "with length on a cosine, do better and are steadier than hard prompts with a plain reward.",
    differs="0.8M parameters instead of a distilled reasoner of 1.5B, list operations without reasoning, where there "
    "is little length to save. Hard means at most one of six samples of the start policy right, and finding that out "
    "is paid for. Decided at the end; the paper's best checkpoints came before a decline, which only curves can show.",
    arms=(
        ArmSpec("open_rs"),
        ArmSpec("open_rs", {"cosine": False}, "mixed"),
        ArmSpec("open_rs", {"cosine": False, "hardest": 0.25}, "hard"),
    ),
    better="open_rs",
    worse="hard",
    matters=0.03,
    also=(
        Contrast("mixed", "hard"),
        Contrast("open_rs", "mixed"),
        Contrast("open_rs", "mixed", "length", higher=False),
        Contrast("open_rs", "start"),
    ),
)
