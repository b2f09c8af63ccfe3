"""Reports of synthetic runs and trials: complete, harmless, self-contained, and right in the numbers they draw."""

from __future__ import annotations

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from equipoise.errors import RecordError
from equipoise.report import report_run, report_trial
from equipoise.report.figures import PALETTE, looks, running_mean, seeds_band
from equipoise.report.folders import exchanges, load_run, visible
from equipoise.trial.result import conclude
from synthetic_runs import NASTY, evaluation_rows, write_rows, write_run, write_start


class Page(HTMLParser):
    """A page as a browser sees it: its elements, its attributes, its text, and how scripts and styles differ."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.raw = path.read_text()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(self.raw)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        (self.scripts if "script" in self.open else self.text).append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def make_trial(out: Path, methods: list[str], seeds: int = 3) -> Path:
    """A finished trial of synthetic runs, with one arm that failed."""
    settings = {
        "task": "addition<i>",
        "model": "tiny",
        "budget": {"flops": 4e12},
        "arms": {m: {"method": m, "arguments": {}} for m in [*methods, "broken"]},
        "seeds": list(range(seeds)),
    }
    for method in methods:
        for seed in range(seeds):
            write_run(out / f"{method}-s{seed}", method, seed)
    write_start(out / "start")
    failures = [{"method": "broken", "seed": s, "reason": f"no luck {NASTY}"} for s in range(seeds)]
    (out / "trial.json").write_text(json.dumps(settings))
    (out / "result.json").write_text(json.dumps(conclude(settings, out, failures)))
    return out


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    out = make_trial(tmp_path_factory.mktemp("trial"), ["sft", "grpo"])
    return out, Page(report_trial(out))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    out = tmp_path_factory.mktemp("run") / "grpo-s0"
    write_run(out, "grpo", 0)
    write_rows(evaluation_rows(0.0, 0), out / "evaluation" / "start.parquet")
    (out / "run.toml").write_text(f"task = '''{NASTY}'''\n")
    return out, Page(report_run(out))


@pytest.mark.parametrize("which", ["trial", "run"])
def test_nothing_a_model_or_user_wrote_becomes_markup(which: str, request: pytest.FixtureRequest) -> None:
    _, page = request.getfixturevalue(which)
    assert len(page.scripts) == 1 and "alert" not in page.scripts[0]
    assert "<script>alert" not in page.raw and "<b>bold" not in page.raw
    assert "&lt;script&gt;alert" in page.raw  # shown, and as text
    assert "<script>alert('x')</script>" in page.words


@pytest.mark.parametrize("which", ["trial", "run"])
def test_no_control_characters(which: str, request: pytest.FixtureRequest) -> None:
    _, page = request.getfixturevalue(which)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.raw)
    assert "\ufffd[31mred\ufffd" in page.words


@pytest.mark.parametrize("which", ["trial", "run"])
def test_pages_load_nothing_from_outside(which: str, request: pytest.FixtureRequest) -> None:
    out, page = request.getfixturevalue(which)
    assert not any(tag in ("link", "img", "iframe", "object", "embed", "image", "base") for tag, _ in page.tags)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert str(value).startswith("#"), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    assert not re.search(r"@import|url\((?!#)", page.raw)
    policy = next(a for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])
    assert len(page.raw) < 3_000_000
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    ids = re.findall(r'\bid="([^"]+)"', page.raw)  # the same clipping path or marker may come twice, with one content
    contents = {(i, re.search(rf'id="{re.escape(i)}"(.*?)/>', page.raw, re.S).group(1)) for i in set(ids)}  # type: ignore[union-attr]
    assert len(contents) == len(set(ids))


def test_trial_says_its_verdicts_and_failures(trial: tuple[Path, Page]) -> None:
    out, page = trial
    result = json.loads((out / "result.json").read_text())
    assert len(result["verdicts"]) == 3
    for v in result["verdicts"]:
        assert v["verdict"] in page.words and f"{v['a']} − {v['b']}" in page.words
    assert "broken, seeds 0, 1, 2 failed." in page.words
    assert "Trial of sft, grpo" in page.words and "addition<i> on tiny, at an equal budget of 4e+12 FLOPs" in page.words
    for heading in ("Verdicts", "Learning curves", "Score against cost", "Arms", "Answers side by side"):
        assert heading in page.words
    for unit in ("generated tokens", "labels", "time", "compute"):
        assert f">{unit}</button>" in page.raw
    assert "grpo: 0." in page.raw  # what a point says when hovered over


def test_trial_sets_the_start_model_beside_every_arm_on_the_same_prompts(trial: tuple[Path, Page]) -> None:
    _, page = trial
    tables = {
        name: [r for r in evaluation_rows(skill, 0) if r["item"] == "item-004"]
        for name, skill in (("start", 0.0), ("sft", 0.6), ("grpo", 1.6))
    }
    article = page.raw.split("<article>")[5]
    assert "item-004" in article
    at = [article.index(f">{name}</h4>") for name in ("start", "sft", "grpo")]
    assert at == sorted(at)
    for name, end in zip(("start", "sft", "grpo"), [*at[1:], len(article)], strict=True):
        column = article[article.index(f">{name}</h4>") : end]
        for row in tables[name][:2]:
            assert row["text"] in column and row["status"] in column


def test_run_shows_before_and_after_spending_and_settings(run: tuple[Path, Page]) -> None:
    out, page = run
    final = json.loads((out / "final.json").read_text())
    assert f"{final['test']['metrics']['pass@1']['value']:.3f}" in page.words
    for words in (
        "before",
        "after",
        "sampling",
        "training",
        "generate",
        "run.toml",
        "Entropy of the policy",
        "step 24",
    ):
        assert words in page.words
    assert "Constant: spread of rewards in a group 0.4" in page.words
    assert page.raw.count("<article>") == 40 + 8  # test prompts, and four groups of the first and the last step


def test_a_run_of_a_trial_is_set_beside_the_trials_start_model(tmp_path: Path) -> None:
    out = make_trial(tmp_path, ["grpo"], seeds=2)
    final = json.loads((out / "grpo-s1" / "final.json").read_text())
    (out / "grpo-s1" / "final.json").write_text(json.dumps(final | {"start": None}))
    page = Page(report_run(out / "grpo-s1"))
    value = json.loads((out / "start" / "final.json").read_text())["test"]["metrics"]["pass@1"]["value"]
    assert f"{value:.3f}" in page.words and ">before</h4>" in page.raw


def test_an_unfinished_run_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("method = 'grpo'\n")
    assert "has not ended" in Page(report_run(tmp_path)).words
    write_run(tmp_path, "sft", 0)
    (tmp_path / "final.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 25, "rew')  # killed while it wrote
    page = Page(report_run(tmp_path))
    assert "has not ended" in page.words and "Validation" not in page.words


def test_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run directory"):
        report_run(tmp_path)
    with pytest.raises(RecordError, match=r"no result\.json"):
        report_trial(tmp_path)
    write_run(tmp_path, "grpo", 0)
    (tmp_path / "final.json").write_text("{")
    with pytest.raises(RecordError, match=r"cannot read .*final\.json"):
        report_run(tmp_path)


def test_a_trial_with_one_arm_and_one_seed_has_a_report(tmp_path: Path) -> None:
    page = Page(report_trial(make_trial(tmp_path, ["grpo"], seeds=1)))
    assert "cannot tell; grpo needs at least 2 seeds" in page.words


def test_curves_are_the_recorded_numbers(tmp_path: Path) -> None:
    write_run(tmp_path, "grpo", 0)
    run = load_run(tmp_path)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    x, y = run.curve("eval/pass@1", against="spent/flops")
    assert x.tolist() == [line["spent/flops"] for line in lines if "eval/pass@1" in line]
    assert y.tolist() == [line["eval/pass@1"] for line in lines if "eval/pass@1" in line]
    assert run.curve("reward", against="spent/seconds")[0].tolist() == list(range(1, 25))
    assert run.held_out == "eval/pass@1"
    assert run.spends() == ["flops", "generated_tokens", "trained_tokens", "usd", "seconds"]


def test_band_is_mean_lowest_and_highest_seed(tmp_path: Path) -> None:
    for seed, rewards in enumerate([(0.0, 1.0), (0.2, 0.4)]):
        folder = tmp_path / str(seed)
        folder.mkdir()
        lines = [
            {"step": k, "fraction": f, "reward": r} for k, (f, r) in enumerate(zip((0.0, 1.0), rewards, strict=True))
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    band = seeds_band([load_run(tmp_path / "0"), load_run(tmp_path / "1")], "reward", "fraction")
    assert band is not None
    x, mean, low, high = band
    np.testing.assert_allclose(mean, (x + 0.2 + 0.2 * x) / 2)
    np.testing.assert_allclose(low, np.minimum(x, 0.2 + 0.2 * x))
    np.testing.assert_allclose(high, np.maximum(x, 0.2 + 0.2 * x))
    assert seeds_band([load_run(tmp_path / "0")], "reward", "spent/labels") is None


def test_running_mean_by_hand() -> None:
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]


def test_long_and_hidden_text() -> None:
    assert visible("a\x00b\u202ec\ud800\n\td") == "a\ufffdb\ufffdc\ufffd\n\td"
    assert visible("x" * 2500).endswith("x … (500 more characters)")
    assert visible("👩‍🔬 ﷽ é") == "👩‍🔬 ﷽ é"


def test_exchanges_keep_the_order_and_the_limits() -> None:
    table = evaluation_rows(0.0, 0)
    shown = exchanges({"start": table, "after": table[:8]}, 3, 2)
    assert [e.item for e in shown] == ["item-000", "item-001", "item-002"]
    assert [len(e.columns["start"]) for e in shown] == [2, 2, 2] and len(shown[2].columns["after"]) == 0


def test_every_arm_looks_different() -> None:
    many = looks([*(f"arm{k}" for k in range(20)), "start"])
    assert len({(look.colour, str(look.dash)) for look in many.values()}) == 21
    assert many["arm0"].colour == PALETTE[0] and many["start"].colour not in PALETTE


def test_the_terminal_gets_no_control_characters(tmp_path: Path) -> None:
    from equipoise.trial.result import print_result

    out = make_trial(tmp_path, ["grpo"], seeds=2)
    text = io.StringIO()
    print_result(json.loads((out / "result.json").read_text()), Console(file=text, width=80))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text.getvalue())
    assert all(len(line) <= 80 for line in text.getvalue().splitlines())
