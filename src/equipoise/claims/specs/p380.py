from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P380",
    title="A remembered rationale a prompt, with failed proposals as control variate, beats rejection sampling",
    arxiv="2312.02179",
    says="Markov-chain EM over rationales that lead to right answers improves held-out accuracy more than STaR, and "
    "the control variate makes its gradient's variance vanish as the model improves.",
    differs="Addition with 0.8M parameters instead of GSM8K and BIG-Bench Hard; STaR is rejection-sampling fine-tuning "
    "without hints. Memories begin empty instead of with rationales that were shown the answer. 300 "
    "prompts, one proposal each a step, are seen a few times.",
    arms=(ArmSpec("trice"), ArmSpec("trice", {"control": False}, "no-control"), ArmSpec("rft")),
    better="trice",
    worse="rft",
    matters=0.03,
    also=(Contrast("trice", "no-control"), Contrast("trice", "start")),
    task="addition",
    knobs={"difficulty": 4, "train": 300},
)
