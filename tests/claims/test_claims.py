"""Claims: verdicts by hand-made numbers, specs that build, what is stored, and a small claim run for real."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from equipoise import recipes, tasks
from equipoise.claims import Claim, Contrast, decide, docs, ledger, settle
from equipoise.claims.provenance import commit_of
from equipoise.claims.run import run
from equipoise.claims.tuning import best
from equipoise.cli import main
from equipoise.errors import ArgumentError, RecordError, UnknownName
from equipoise.trial import Arm, ArmSpec
from equipoise.types import Estimate

EVERY = ledger.claims()
MICRO = Path(__file__).with_name("micro.py")


@pytest.mark.parametrize(
    ("estimate", "low", "high", "verdict"),
    [
        (0.10, 0.01, 0.19, "holds here"),
        (0.05, 0.01, 0.09, "holds here"),  # as large as matters
        (0.04, 0.01, 0.07, "cannot tell"),  # an effect, perhaps too small
        (0.02, 0.01, 0.03, "fails here"),  # an effect, surely too small
        (0.00, -0.04, 0.04, "fails here"),
        (-0.20, -0.30, -0.10, "fails here"),
        (0.10, -0.01, 0.21, "cannot tell"),
        (0.00, -0.10, 0.05, "cannot tell"),  # the interval reaches what matters
    ],
)
def test_verdict_is_decided_by_interval_and_smallest_effect(
    estimate: float, low: float, high: float, verdict: str
) -> None:
    assert decide(estimate, low, high, 0.05) == verdict


def arm(name: str, mean: float, spread: float = 0.01) -> Arm:
    """Three seeds on four items, equal but for a shift of each seed."""
    return Arm(name, np.full((3, 4), mean) + spread * np.array([[-1.0], [0.0], [1.0]]))


def test_direction_turns_the_difference_and_the_interval_is_students_by_hand() -> None:
    up, down = settle(arm("a", 0.7), arm("b", 0.5), 0.1), settle(arm("a", 0.5), arm("b", 0.7), 0.1, "brier", False)
    assert up.estimate == pytest.approx(0.2) and up == down and up.verdict == "holds here"
    # V = 2 * 0.01^2 / 3, between t with 2 and with 4 degrees of freedom
    assert 2.776 <= (up.high - up.estimate) / np.sqrt(2e-4 / 3) <= 4.303
    assert settle(arm("a", 0.5), arm("b", 0.7), 0.1).verdict == "fails here"


def test_cannot_tell_says_how_many_more_seeds() -> None:
    found = settle(arm("a", 0.6, 0.08), arm("b", 0.5, 0.08), 0.05)
    assert found.verdict == "cannot tell" and found.low < 0 and found.more_seeds is not None and found.more_seeds >= 1
    assert settle(arm("a", 0.9), arm("b", 0.5), 0.05).more_seeds is None


@pytest.mark.parametrize("claim", EVERY, ids=lambda c: c.id)
def test_every_spec_builds_its_arms_and_is_complete(claim: Claim) -> None:
    task = tasks.load(claim.task, **claim.knobs)
    for spec in claim.arms:
        recipe = recipes.build(spec.method, task, **spec.arguments, lr=1e-3)
        assert set(claim.budget) <= recipe.spends
    page = ledger.spec_path(claim)
    assert len(page.read_text().splitlines()) <= 60
    assert len(claim.says) > 40 and len(claim.differs) > 40 and re.fullmatch(r"\d{4}\.\d{5}", claim.arxiv)
    assert claim.arxiv == recipes.method(claim.method).about.arxiv
    assert claim.seeds >= 3 and 1.0 in claim.lr_scales


def test_specs_that_contradict_themselves_are_refused() -> None:
    given = {"id": "X", "title": "", "arxiv": "", "says": "", "differs": "", "arms": (ArmSpec("grpo"),), "matters": 0.1}
    for wrong, said in [
        ({"better": "grpo", "worse": "gone"}, "gone"),
        ({"better": "grpo", "worse": "start", "metric": "pass@64"}, "64 samples"),
        ({"better": "grpo", "worse": "start", "matters": 0.0}, "matters"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            Claim(**(given | wrong))  # type: ignore[arg-type]


def test_learning_rate_is_the_best_beyond_chance_and_failures_are_left_out() -> None:
    claim = Claim("X", "", "", "", "", (ArmSpec("grpo"),), "grpo", "start", 0.1)
    low, middle, high = (Estimate(x, x - 0.0392, x + 0.0392) for x in (0.2, 0.481, 0.5))  # standard errors of 0.02
    assert best(claim, claim.arms[0], {1.0: low, 2.0: high, 4.0: None}).lr == 2.0
    assert best(claim, claim.arms[0], {1.0: high, 2.0: high, 4.0: high}).lr == 2.0  # the middle
    assert best(claim, claim.arms[0], {1.0: low, 2.0: middle, 4.0: high}).lr == 2.0  # within a standard error
    assert best(claim, claim.arms[0], {1.0: middle, 2.0: low, 4.0: high}).lr == 4.0
    assert best(claim, claim.arms[0], {1.0: low, 2.0: middle, 4.0: high}).tried == {"1": 0.2, "2": 0.481, "4": 0.5}
    with pytest.raises(RecordError, match="every learning rate"):
        best(claim, claim.arms[0], {1.0: None})


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout.strip()


def test_a_spec_is_committed_before_it_is_run(tmp_path: Path) -> None:
    spec = tmp_path / "micro.py"
    shutil.copy(MICRO, spec)
    assert commit_of(spec).startswith("equipoise ") and "sha256" in commit_of(spec)  # no checkout here
    git(tmp_path, "init", "-q")
    with pytest.raises(RecordError, match="not committed"):
        commit_of(spec)
    git(tmp_path, "add", "micro.py")
    with pytest.raises(RecordError, match="not committed"):
        commit_of(spec)
    git(tmp_path, "commit", "-qm", "claim")
    (tmp_path / "other").write_text("")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "other")
    assert commit_of(spec) == git(tmp_path, "rev-parse", "HEAD~1")
    spec.write_text(spec.read_text() + "\n# easier\n")
    with pytest.raises(RecordError, match="changed since"):
        commit_of(spec)


def test_seeds_are_fresh_after_the_highest_of_any_result(tmp_path: Path) -> None:
    assert ledger.fresh_seeds([], 3) == [0, 1, 2]
    ledger.append("X", {"seeds": [0, 7]}, tmp_path)
    ledger.append("X", {"seeds": [3, 4]}, tmp_path)
    assert ledger.fresh_seeds(ledger.results("X", tmp_path), 2) == [8, 9]


def test_json_has_exactly_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["id"] for r in rows] == [c.id for c in EVERY] and len(rows) >= 10
    for r in rows:
        assert list(r) == ["id", "method", "verdict", "seeds", "estimate", "low", "high", "date", "commit"]
        assert r["verdict"] in ("holds here", "fails here", "cannot tell", None)
        assert (r["verdict"] is None) == (r["seeds"] is None)
    assert main(["claims", "psr_nsr", "--json"]) == 0
    assert [r["id"] for r in json.loads(capsys.readouterr().out)] == ["P386", "P386-smollm2"]
    assert main(["claims", "show", "p386"]) == 0
    assert "pass@64: nsr above psr" in capsys.readouterr().out
    with pytest.raises(UnknownName, match="P386"):
        ledger.claim("P385")


def test_a_small_claim_runs_is_stored_and_shown(tmp_path: Path) -> None:
    specs, results, text = tmp_path / "specs", tmp_path / "results", io.StringIO()
    specs.mkdir()
    shutil.copy(MICRO, specs)
    more = {"specs": specs, "results": results, "console": Console(file=text, width=200)}
    run("micro", out=tmp_path / "out", **more)  # type: ignore[arg-type]
    (found,) = ledger.results("micro", results)
    assert found["seeds"] == [0, 1] and found["verdict"] in ("holds here", "fails here", "cannot tell")
    assert found["low"] <= found["estimate"] <= found["high"] and "sha256" in found["commit"]
    measured = {name: m["metrics"]["pass@1"]["value"] for name, m in found["measured"].items()}
    assert found["estimate"] == pytest.approx(measured["grpo"] - measured["start"])
    assert found["also"][0]["metric"] == "truncated" and len(found["tuning"]["grpo"]) == 2
    tried = [float(lr) for lr in found["tuning"]["grpo"]]
    assert found["arms"]["grpo"]["arguments"]["lr"] == pytest.approx(tried[0], rel=0.01) or found["arms"]["grpo"][
        "arguments"
    ]["lr"] == pytest.approx(tried[1], rel=0.01)
    with pytest.raises(RecordError, match="seeds differ"):  # fresh seeds belong elsewhere
        run("micro", out=tmp_path / "out", **more)  # type: ignore[arg-type]
    docs.write(tmp_path / "docs", specs, results)
    page = (tmp_path / "docs" / "claims.md").read_text()
    assert f"{found['estimate']:+.3f} [" in page and "How to read a verdict" in page
    assert (tmp_path / "docs" / docs.PICTURE).stat().st_size > 5000
    (results / "micro.json").unlink()  # stopped before it was stored: going on repeats no run, and finds the same
    again = run("micro", out=tmp_path / "out", **more)  # type: ignore[arg-type]
    assert {k: v for k, v in again.items() if k != "date"} == {k: v for k, v in found.items() if k != "date"}


def test_a_contrast_says_its_direction() -> None:
    assert str(Contrast("a", "b", "brier", higher=False)) == "brier: a below b"
