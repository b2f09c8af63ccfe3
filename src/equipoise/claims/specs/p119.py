from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

BEGUN = {"until": ":", "state_answer": False}

CLAIM = Claim(
    id="P119",
    title="Reinforcing a writer of rationales on a frozen solver's success beats distilling useful rationales alone",
    arxiv="2404.03414",
    says="A small model distilled on a solver's rationales guides the solver to better answers than it finds alone; "
    "reinforcing the small model, on the quality of its rationales and the solver's success with them, adds to that.",
    differs="Addition with 0.8M parameters instead of multi-hop questions with a small writer and a solver of 11B. "
    "Writer and solver begin as one model, so that there is nothing to distil but the solver's luck. This model cannot "
    "read a hint in its question, so the scratch work before the answer is the rationale and the solver completes the "
    "reply. The test has no second model: it judges the rationale alone, which leads the solver to the answer 93 times "
    "of 100 where it is right and never where it is wrong; pass@1 is with the writer's own answers, which neither arm "
    "trains and long imitation spoils. No reward for the eight aspects of quality.",
    arms=(
        ArmSpec("lm_guided_cot", BEGUN, "reinforced"),
        ArmSpec("lm_guided_cot", {**BEGUN, "distil_share": 1.0, "passes": 8}, "distilled"),
    ),
    better="reinforced",
    worse="distilled",
    metric="parts/work",
    matters=0.03,
    also=(
        Contrast("reinforced", "start", "parts/work"),
        Contrast("distilled", "start", "parts/work"),
        Contrast("reinforced", "distilled"),
    ),
    task="addition",
    knobs={"difficulty": 4},
    budget={"flops": 6e11},
    smoke_share=0.2,
)
