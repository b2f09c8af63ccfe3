from equipoise.claims import Claim, Contrast
from equipoise.trial import ArmSpec

CLAIM = Claim(
    id="P101",
    title="Contrasting embeddings of samples with the demonstration's beats reinforced fine-tuning",
    arxiv="2508.15868",
    says="A contrastive term between the representations of sampled and annotated reasoning makes reinforced "
    "fine-tuning steadier and better (by up to 10.15%) than the same method without it.",
    differs="0.8M parameters and addition with scratch work instead of 7B models and two mathematics datasets; eleven "
    "trainers are published and which made the figures is not said: here the one on wrong samples, the one on both "
    "beside it; how often training collapses is not measured; annotations are read anew each step and that is charged.",
    arms=(ArmSpec("carft"), ArmSpec("carft", {"of": "both"}, "both"), ArmSpec("reft")),
    better="carft",
    worse="reft",
    matters=0.03,
    also=(Contrast("both", "reft"), Contrast("carft", "start")),
    task="addition",
    knobs={"difficulty": 4},
    budget={"flops": 4e11},
)
