"""The demo: five methods on the shipped model at equal FLOPs, three seeds, with verdicts and a report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from equipoise.cli import main

OUT = Path("runs/demo")
COMMAND = (
    "trial sft rft dpo grpo nft --task lists --model tiny --seeds 3 --budget.flops 4e11 --jobs 2 --test.samples 8"
    f" --out {OUT}"
)


def run() -> int:
    if (OUT / "result.json").exists():
        print(f"{OUT} holds a finished demo; it is made again.")
        shutil.rmtree(OUT)
    print(f"$ equipoise {COMMAND}\n", flush=True)
    started = time.monotonic()
    status = main(COMMAND.split())
    if status or not (OUT / "result.json").exists():
        return status or 1
    result = json.loads((OUT / "result.json").read_text())
    print("\nAgainst the start model:")
    for verdict in result["verdicts"]:
        if "start" in (verdict["a"], verdict["b"]):
            print(f"  {verdict['verdict']}")
    print(f"\nThe trial took {time.monotonic() - started:.0f} s. Open {OUT / 'report.html'} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(run())
