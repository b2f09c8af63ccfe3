from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P218",
    title="Aiming at the posterior keeps the variety that reward alone destroys",
    arxiv="2205.11275",
    says="Maximising reward alone collapses a language model to few outputs. A KL term makes the target a posterior, "
    "the start model reweighed by its rewards, which keeps the spread; fitting it by other divergences is as good.",
    differs="The paper argues and measures nothing of this kind; pass@32 on countdown stands for variety, where most "
    "questions have several right answers. 0.8M parameters; a few hundred updates, which may end before a collapse; "
    "learning rates are tuned on pass@32, also that of the arm that should collapse.",
    arms=(
        ArmSpec("kl_as_bayes"),
        ArmSpec("copg", {"online": True, "beta": 0.2}, "kl-rl"),
        ArmSpec("reinforce", {"baseline": "prompt"}, "rl"),
    ),
    better="kl_as_bayes",
    worse="rl",
    metric="pass@32",
    matters=0.03,
    also=(
        Contrast("kl-rl", "rl", "pass@32"),
        Contrast("kl_as_bayes", "kl-rl", "pass@32"),
        Contrast("kl_as_bayes", "start"),
        Contrast("rl", "kl_as_bayes"),
    ),
    task="countdown",
    items=120,
    samples=32,
)
