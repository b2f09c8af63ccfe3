from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P192",
    title="Rewarding right sub-answers, once the policy is improving, beats rewarding the final answer alone",
    arxiv="2505.19640",
    says="With a rule-based reward for right intermediate answers, given under conditions, models that interleave "
    "thinking and answering gain up to 19% in accuracy and answer first 80% sooner.",
    differs="Addition with 0.8M parameters instead of multi-hop questions at 1.5B and 7B. Columns of the scratch work "
    "are the sub-answers, in the task's own form: all arms interleave, so that only the reward is tested, and the time "
    "to a first answer is not.",
    arms=(ArmSpec("interleaved"), ArmSpec("interleaved", {"mid": 0.0}, "final-only"), ArmSpec("grpo")),
    better="interleaved",
    worse="final-only",
    matters=0.02,
    also=(Contrast("interleaved", "grpo"), Contrast("interleaved", "start")),
    task="addition",
    knobs={"difficulty": 4},
)
