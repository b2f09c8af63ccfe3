"""The smoke of a claim: what is sound is ready, and every fault comes back as data with its place and reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from equipoise.claims import Claim, Contrast, ledger
from equipoise.claims.smoke import SEED, smoke
from equipoise.cli import main
from equipoise.errors import UnknownName
from equipoise.trial import ArmSpec

SOUND = ArmSpec("grpo", {"prompts": 2, "samples": 4})
CLAIM = Claim(
    id="X",
    title="",
    arxiv="",
    says="",
    differs="",
    arms=(SOUND, ArmSpec("grpo", {"samples": 4096}, "huge")),
    better="grpo",
    worse="start",
    matters=0.1,
    also=(Contrast("grpo", "start", "brier"), Contrast("grpo", "huge")),
    knobs={"operation": "max"},
    budget={"flops": 2.4e10},
    items=8,
    samples=2,
    smoke_share=0.5,
)


def test_faults_say_where_and_why_and_what_is_sound_runs(tmp_path: Path) -> None:
    found = smoke(CLAIM, tmp_path)
    assert list(found.updates) == ["grpo"] and sum(found.updates["grpo"].values()) >= 1
    assert [f.where for f in found.faults] == ["huge", "brier: grpo above start", "pass@1: grpo above huge"]
    huge, brier, pair = (f.reason for f in found.faults)
    assert "below the smallest step" in huge and "has no brier" in brier and "no finished run of huge" in pair
    assert found.seconds["grpo"] > 0
    assert found.minutes(CLAIM) == pytest.approx(found.seconds["grpo"] * (5 + 3 * 0.25) / 60)
    run = json.loads((tmp_path / f"grpo-s{SEED}" / "final.json").read_text())
    assert run["budget"] == {"flops": 1.2e10} and run["spent"]["flops"] <= 1.2e10


def test_a_claim_of_arms_that_cannot_begin_runs_nothing(tmp_path: Path) -> None:
    none = replace(CLAIM, arms=CLAIM.arms[1:], better="huge", also=())
    found = smoke(none, tmp_path, share=0.1)
    assert [f.where for f in found.faults] == ["huge"] and not found.updates and not list(tmp_path.iterdir())


def test_the_command_refuses_odd_shares_and_unknown_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "smoke", "P386", "--share", "2"]) == 2
    assert "--share is 2" in capsys.readouterr().err
    assert main(["claims", "smoke", "P385"]) == 2
    assert "P386" in capsys.readouterr().err
    with pytest.raises(UnknownName):
        ledger.claim("P385")
