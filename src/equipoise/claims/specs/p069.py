from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P069",
    title="Guidance by the soft value of the frozen policy beats guidance by its mean value",
    arxiv="2502.20548",
    says="Decoding a frozen policy towards its optimal regularised value gives higher accuracy than guidance by its "
    "expected reward, at a smaller KL from the policy.",
    differs="Addition with 0.8M parameters instead of mathematics at 8B. The value is linear in the policy's hidden "
    "state instead of a network of its own. The paper varies the price of KL of either decoder; here each has one, "
    "0.1 and 0.5, at which a rise of the chance of success from 0.2 to 0.8 weighs about the same (1.4 and 1.2 nats).",
    arms=(
        ArmSpec("q_sharp", {"fit": 4, "eta": 0.1}, "soft"),
        ArmSpec("q_sharp", {"fit": 4, "eta": 0.5, "soft": False}, "mean"),
    ),
    better="soft",
    worse="mean",
    matters=0.02,
    also=(Contrast("soft", "mean", "parts/kl", higher=False), Contrast("soft", "start"), Contrast("mean", "start")),
    task="addition",
    budget={"flops": 5e11},
    lr_scales=(1.0, 3.0, 10.0),
)
