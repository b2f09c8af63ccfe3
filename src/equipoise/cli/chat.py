"""equipoise chat DIR_OR_MODEL: talk to a model, turn by turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from equipoise.cli import options
from equipoise.cli.eval import model_of
from equipoise.cli.options import Flag


def main(args: Sequence[str]) -> int:
    flags = [
        Flag("model", str, help="a run directory, a shipped name, a local folder, or a Hub id", positional=True),
        Flag("system", str | None, None, "a system message"),
        Flag("temperature", float, 0.7, "0 is greedy"),
        Flag("top-p", float, 0.95),
        Flag("max-new-tokens", int, 200),
        Flag("seed", int, 0),
        Flag("device", str, "auto"),
    ]
    v = options.parse(
        "equipoise chat", "Talk to a model. An empty line or Ctrl-D ends; /new begins afresh.", flags, args
    )
    from equipoise.cli.show import printable
    from equipoise.engine.local import load
    from equipoise.keys import Key
    from equipoise.types import Decoder, Message, Prompt

    engine = load(model_of(v["model"]), device=v["device"])
    decoder = Decoder(v["max-new-tokens"], v["temperature"], v["top-p"])
    opening: tuple[Message, ...] = ({"role": "system", "content": v["system"]},) if v["system"] else ()
    messages, turn = opening, 0
    while (said := _ask()) is not None:
        if said == "/new":
            messages = opening
            continue
        messages = (*messages, {"role": "user", "content": said})
        prompt = engine.encode(Prompt(f"turn {turn}", messages=messages))
        reply = engine.sample([prompt], 1, decoder, [Key((v["seed"], "chat", turn))])[0].responses[0].text
        print(printable(reply), flush=True)
        messages, turn = (*messages, {"role": "assistant", "content": reply}), turn + 1
    return 0


def _ask() -> str | None:
    try:
        said = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return said or None
