from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P295",
    title="Reinforcement by execution after imitation beats imitation alone",
    arxiv="2505.00016",
    says="Explained queries to imitate, then reinforcement by what queries return, improve query writing, and "
    "reasoning over tables beyond it, by 14 and 34 per cent of the start's accuracy.",
    differs="Queries only: no table is read without one, so that transfer, the paper's point, is not tested. Both arms "
    "have the same compute, and imitation alone has twice the labels. Questions on one schema and 0.8M parameters "
    "that have never seen a query, instead of real databases at 8B.",
    arms=(ArmSpec("text2sql_rl", {"demonstrations": 4}, "text2sql_rl"), ArmSpec("sft", {"prompts": 4}, "sft")),
    better="text2sql_rl",
    worse="sft",
    matters=0.05,
    also=(Contrast("text2sql_rl", "start"),),
    task="sql",
    budget={"flops": 7e11},
    items=100,
    lr_scales=(1.0, 2.0, 4.0),
    tuning_share=0.5,
    smoke_share=0.5,
)
