"""equipoise export DIR FOLDER [--merge]: a plain Hugging Face folder with a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from equipoise.cli import options
from equipoise.cli.options import Flag
from equipoise.errors import ArgumentError, RecordError


def main(args: Sequence[str]) -> int:
    flags = [
        Flag("dir", str, help="a run directory", positional=True),
        Flag("folder", str, help="where to write; must not exist", positional=True),
        Flag("merge", bool, True, "merge LoRA adapters into the weights; otherwise the adapter alone is written"),
    ]
    v = options.parse("equipoise export", "Write a trained model as a plain Hugging Face folder.", flags, args)
    run, folder = Path(v["dir"]), Path(v["folder"])
    if folder.exists() and any(folder.iterdir()):
        raise ArgumentError(f"{folder} exists and is not empty; choose another folder")
    if not (run / "run.toml").exists():
        raise RecordError(f"{run} is no run directory: it has no run.toml")
    if v["merge"] and (run / "model").is_dir():
        shutil.copytree(run / "model", folder, dirs_exist_ok=True)  # what the run itself wrote, byte for byte
    else:
        _from_checkpoint(run, folder, v["merge"])
    (folder / "README.md").write_text(card(run))
    print(folder)
    return 0


def _from_checkpoint(run: Path, folder: Path, merge: bool) -> None:
    """The newest checkpoint's policy: of a run that has not ended, or as an adapter."""
    from equipoise.job.job import prepare, saved
    from equipoise.record import checkpoint

    engine = prepare(replace(saved(run), cluster=None)).engine  # one process will do, whatever trained it
    engine.load(checkpoint.newest(run / "checkpoints") / "engine")
    engine.export(folder, merge=merge)


def card(run: Path) -> str:
    """The model card: what was trained, on what, for how much, from what."""
    from equipoise.record.folder import read_toml

    asked = read_toml(run / "run.toml")
    final = json.loads((run / "final.json").read_text()) if (run / "final.json").exists() else None
    return "\n".join(
        [*_front(asked), "", *_body(asked), "", *(_results(final) if final else ["The run has not ended."])]
    )


LICENCES = {"tiny": "apache-2.0", "smollm2": "apache-2.0"}


def _front(asked: dict[str, Any]) -> list[str]:
    base = asked["model"]
    licence = LICENCES.get(base)
    rest = [f"license: {licence}"] if licence else ["license: other", f"license_name: that of the base model, {base}"]
    return ["---", *rest, "library_name: transformers", "tags: [equipoise, " + asked["method"] + "]", "---"]


def _body(asked: dict[str, Any]) -> list[str]:
    resolved = asked["resolved"]
    revision = f" at revision {resolved['revision']}" if "revision" in resolved else ""
    budget = ", ".join(f"{v:,.6g} {k.replace('_', ' ')}" for k, v in resolved["budget"].items())
    arguments = ", ".join(f"{k}={v}" for k, v in asked["arguments"].items())
    licence = LICENCES.get(asked["model"], "see the base model's own card")
    return [
        f"# {asked['model']} after {asked['method']} on {asked['task']}",
        "",
        f"- **Method**: `{asked['method']}` ({arguments}), seed {asked['seed']}",
        f"- **Data**: task `{asked['task']}`, fingerprint `{resolved['fingerprint']}`",
        f"- **Budget**: {budget}",
        f"- **Base model**: {asked['model']}{revision}; its licence: {licence}",
        f"- **Software**: {', '.join(f'{k} {v}' for k, v in resolved['versions'].items())}",
    ]


def _results(final: dict[str, Any]) -> list[str]:
    lines = ["| test metric | value | 95% interval |", "|---|---|---|"]
    for name, e in final["test"]["metrics"].items():
        lines.append(f"| {name} | {e['value']:.4g} | {e['low']:.4g} to {e['high']:.4g} |")
    lines.append(f"\n{final['test']['items']} test items x {final['test']['samples']} samples at temperature 1.")
    return lines
