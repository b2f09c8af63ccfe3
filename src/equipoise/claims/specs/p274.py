from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P274",
    title="A soft actor-critic on the tokens of logged responses beats preferences between whole responses",
    arxiv="2410.09302",
    says="Taking a response as a sequence of decisions, with the policy's log-ratios as advantages, beats offline "
    "methods that take it as one (DPO, DRO) and rejection sampling, on grade-school and competition maths.",
    differs="0.8M parameters instead of 7B; additions of four digits, some 35 tokens long; no rewards of single steps; "
    "values are a head on the policy's body, trained within the same few hundred updates; equal compute, the drawing "
    "of the log included, and not an equal log. There is no DRO arm.",
    arms=(ArmSpec("dqo"), ArmSpec("dpo"), ArmSpec("rft")),
    better="dqo",
    worse="dpo",
    matters=0.03,
    also=(Contrast("dqo", "rft"), Contrast("dqo", "start")),
    task="addition",
    knobs={"difficulty": 4},
    budget={"flops": 4e11},
)
