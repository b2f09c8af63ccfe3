from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P427",
    title="Wrong samples reshaped and tokens weighed beat plain leave-one-out on outcomes",
    arxiv="2502.06781",
    says="With outcome rewards only, cloning right samples, a reshaped reward for wrong ones and a token reward model "
    "that finds the tokens that matter reach accuracies that plain outcome rewards did not.",
    differs="List operations with 0.8M parameters instead of competition maths at 7B and 32B: replies of a few tokens, "
    "where weights of tokens have least to find. The token reward is a head on the policy and not a second model; it "
    "learns alone for a tenth of the budget, which the plain arm trains with.",
    arms=(
        ArmSpec("oreal"),
        ArmSpec("oreal", {"weights": False}, "unweighed"),
        ArmSpec("oreal", {"weights": False, "pair": False, "separate": False, "wrong": 1.0}, "plain"),
    ),
    better="oreal",
    worse="plain",
    matters=0.03,
    also=(Contrast("oreal", "unweighed"), Contrast("oreal", "start")),
)
