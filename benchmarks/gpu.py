"""The GRPO table on a GPU, correctness first. It has been written without a GPU at hand and never run on one: nothing
is claimed from it. What does not need one (`--quick`: agreement of log-probs, on the device there is) has run on a CPU.

    python benchmarks/gpu.py [--quick] [--only 135M-short 135M-long 1B-short 1B-long] [--micro 8 16 64] [--no-trl]

1. Log-probs of the sampler, the learner (rows packed as it likes, and a response at a time) and a plain forward pass of
   `transformers` on the same tokens, float32 and bfloat16. 2. A GRPO step against TRL with `transformers`' generation.
   3. Learning as a share of peak model FLOPs, sampling against the time to read weights and cache once per token.
The 1B-class model has random weights. Writes benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from equipoise.engine.local import LocalEngine, load
from equipoise.keys import Key
from equipoise.types import Decoder, Group, Prompt
from floor import Sizes, flops, sizes
from grpo import measure
from sides import MODELS, NAN, Cell, arguments, best, console, keep, median, number, show, times
from workloads import Work, endless, prompts

ON = {"dtype": "bfloat16", "device": "cuda", "steps": 5}
WORKS = {
    "135M-short": Work("smollm2", length=51, **ON),  # type: ignore[arg-type]
    "135M-long": Work("smollm2", length=291, **ON),  # type: ignore[arg-type]
    "1B-short": Work("1B", length=51, new=128, **ON),  # type: ignore[arg-type]
    "1B-long": Work("1B", length=512, new=128, **ON),  # type: ignore[arg-type]
}
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}  # bfloat16, dense, nominal


def folder_of(name: str) -> Path:
    """A model's folder: a copy of a shipped one, or one of a billion random weights with smollm2's tokenizer."""
    if name != "1B":
        return endless(name, MODELS / name)
    folder, small = MODELS / name, endless("smollm2", MODELS / "smollm2")
    if not (folder / "config.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(small)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


# -- correctness ---------------------------------------------------------------------------------------------------


def agreement(folder: Path, device: str, dtype: str) -> dict[str, float]:
    """Largest and mean difference of log-probs, nats, between the learner's rows and each other way to get them."""
    engine = load(str(folder), device=device, dtype=dtype)
    texts = [text for n in (17, 40, 90) for text in prompts(engine.tokenizer, n, 2)]
    asked = [engine.encode(Prompt(str(k), text=text)) for k, text in enumerate(texts)]
    groups = engine.sample(asked, 4, Decoder(max_new_tokens=48), [Key((0, k)) for k in range(len(asked))])
    learned = _logp(engine, groups)
    others = {
        "sampler": [r.logprobs for g in groups for r in g.responses],
        "single rows": [x for g in groups for r in g.responses for x in _logp(engine, [Group(g.prompt, (r,))])],
        "plain forward": [_plain(engine, g.prompt, r.ids) for g in groups for r in g.responses],
    }
    found: dict[str, float] = {}
    for name, other in others.items():
        gaps = torch.cat([(torch.as_tensor(a) - torch.as_tensor(b)).abs() for a, b in zip(learned, other, strict=True)])
        found |= {f"{name}, largest": float(gaps.max()), f"{name}, mean": float(gaps.mean())}
    return found


def _logp(engine: LocalEngine, groups: Sequence[Group]) -> list[Any]:
    return [values for note in engine.outputs(groups, ["logp"]) for values in note["logp"]]


@torch.no_grad()
def _plain(engine: LocalEngine, prompt: Prompt, reply: Any) -> torch.Tensor:
    """A response's log-probs by the model's own forward pass over a single row."""
    assert prompt.ids is not None
    ids = torch.tensor([[*prompt.ids, *reply.tolist()]], device=engine.network.device)
    with engine.network.autocast():
        logits = engine.network.model(ids[:, :-1]).logits[0, len(prompt.ids) - 1 :].float()
    found: torch.Tensor = logits.log_softmax(-1).gather(1, ids[0, len(prompt.ids) :, None])[:, 0].cpu()
    return found


def agreements(names: Sequence[str], device: str) -> dict[str, dict[str, float]]:
    found = {}
    for name in names:
        for dtype in ("float32", "bfloat16"):
            found[f"{name} {dtype}"] = agreement(folder_of(name), device, dtype)
    title = f"Learner's log-probs against other ways to get them, nats ({device})"
    columns = list(next(iter(found.values())))
    show(title, ("model", *columns), [[k, *(f"{v[c]:.1e}" for c in columns)] for k, v in found.items()])
    return found


# -- floors --------------------------------------------------------------------------------------------------------


def _seconds(work: Any, repeats: int = 10) -> float:
    """Median time of ``work()`` on the device, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.monotonic()
        work()
        torch.cuda.synchronize()
        times.append(time.monotonic() - began)
    return statistics.median(times[1:])


def machine() -> dict[str, Any]:
    """What the device gives: measured matmul FLOP/s in bfloat16, measured bytes/s of a copy, nominal peak FLOP/s."""
    name, size = torch.cuda.get_device_name(), 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    large = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    copy = torch.empty_like(large)
    nominal = next((peak for key, peak in PEAKS.items() if key in name), None)
    rate = 2.0 * size**3 / _seconds(lambda: a @ b)
    return {
        "name": name,
        "rate": rate,
        "bytes_s": 2 * large.numel() / _seconds(lambda: copy.copy_(large)),
        "peak": nominal,
    }


def decode_bytes(work: Work, m: Sizes, cache_width: int) -> float:
    """Read at least once in sampling a step's replies in bfloat16: the weights for each token's position, and each
    row's cache of keys and values, as long as it is by then. ``cache_width``: numbers of a layer's keys of a token."""
    positions = work.new - 1
    seen = work.rows * sum(work.length + t for t in range(1, positions + 1))
    return 2.0 * (m.body + m.head) * positions + 2.0 * 2 * m.layers * cache_width * seen


def cache_width(folder: Path) -> int:
    config = AutoConfig.from_pretrained(folder)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_key_value_heads * size)


# -- table ---------------------------------------------------------------------------------------------------------

COLUMNS = (
    "workload",
    "equipoise s",
    "TRL s",
    "ratio",
    "sampling s (x floor)",
    "TRL's",
    "learning s (MFU)",
    "TRL's",
    "GPU MB",
    "TRL's",
)


def row(name: str, found: Mapping[str, Any], on: Mapping[str, Any]) -> list[str]:
    """In brackets: how many times the floor of reading weights and cache; the share of the peak (nominal where known,
    else the measured rate) that the least arithmetic of learning comes to."""
    work, size = Work(**found["work"]), Sizes(**found["size"])
    micro, theirs = best(found["trl"])
    ours, other = ({} if side is None or "error" in side else side for side in (found["equipoise"], theirs))
    reading = decode_bytes(work, size, found["cache_width"]) / on["bytes_s"]
    learning = flops(work, size)[1] / (on["peak"] or on["rate"])

    def sampled(side: Cell) -> str:
        return f"{number(median(side, 'sample_s'), '.3f')} ({times(median(side, 'sample_s') / reading)})"

    def learned(side: Cell) -> str:
        return f"{number(median(side, 'learn_s'), '.3f')} ({number(learning / median(side, 'learn_s'), '.0%')})"

    step, their_step = median(ours, "step_s"), median(other, "step_s")
    return [
        name,
        number(step, ".3f"),
        f"{number(their_step, '.3f')} ({micro or '-'})",
        times(their_step / step),
        *(sampled(side) for side in (ours, other)),
        *(learned(side) for side in (ours, other)),
        *(number(side.get("cuda_mb", NAN), ",.0f") for side in (ours, other)),
    ]


def own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=sorted(WORKS), default=list(WORKS))
    parser.add_argument("--micro", nargs="+", type=int, default=[8, 16, 64], help="TRL's micro-batches")
    parser.add_argument("--steps", type=int, help="timed steps of each cell")


def main() -> None:
    asked = arguments(__doc__, "gpu", own, needs_trl=torch.cuda.is_available())
    if asked.quick:
        agreements(["tiny"], "cuda" if torch.cuda.is_available() else "cpu")
        return
    if not torch.cuda.is_available():
        console.print("no CUDA device here: nothing was measured, nothing is claimed")
        return
    results: dict[str, Any] = {"device": machine(), "works": {}}
    results["agreement"] = agreements(sorted({WORKS[name].model for name in asked.only}), "cuda")
    for name in asked.only:
        folder = folder_of(WORKS[name].model)
        work = replace(WORKS[name], model=str(folder), steps=asked.steps or WORKS[name].steps)
        found = measure(name, work, asked.micro, not asked.no_trl)
        results["works"][name] = {**found, "size": asdict(sizes(str(folder))), "cache_width": cache_width(folder)}
        keep(asked.out, results)
    console.print(json.dumps(results["device"]), markup=False)
    lines = [row(name, found, results["device"]) for name, found in results["works"].items()]
    show("A GRPO step on the GPU, medians (in brackets TRL's micro-batch)", COLUMNS, lines)


if __name__ == "__main__":
    main()
