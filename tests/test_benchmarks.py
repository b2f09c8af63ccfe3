"""Benchmarks: what they ask of both sides, and the arithmetic they compare with. Nothing is timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import precision
from equipoise.engine import flops as formula
from equipoise.types import ModelInfo
from floor import Sizes, flops
from grpo import checked, net
from ragged import fastest, same, speed
from reward import reward
from sides import best
from workloads import SPARE, Ragged, Work, examples, lengths, prompts

TINY = Path(__file__).resolve().parents[1] / "src" / "equipoise" / "models" / "tiny"
RAGGED = Ragged("tiny", "dpo", longest=512)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


@pytest.mark.parametrize("length", [16, 51])
def test_prompts_have_exactly_the_length_asked_for_and_differ(tokenizer, length):
    found = prompts(tokenizer, length, 20)
    assert len(set(found)) == 20
    assert {len(tokenizer(text)["input_ids"]) for text in found} == {length}


def test_lengths_are_log_normal_cut_and_the_same_each_time():
    found = lengths(RAGGED, 20_000)
    assert found == lengths(RAGGED, 20_000)
    assert min(found) >= 24 and max(found) == 512
    uncut = lengths(replace(RAGGED, longest=10**9), 20_000)
    assert abs(np.mean(uncut) - 200) < 5
    assert abs(np.log(uncut).std() - 0.8) < 0.05


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_examples_have_the_lengths_drawn_and_never_more(tokenizer, method):
    work = replace(RAGGED, method=method)
    found = examples(tokenizer, work, 12)
    assert found == examples(tokenizer, work, 12) and len(found) == 12 + SPARE
    names = ("chosen", "rejected") if method == "dpo" else ("completion",)
    for row, sizes in zip(found, np.reshape(lengths(work, 2 * len(found)), (-1, 2)), strict=True):
        assert set(row) == {"prompt", *names}
        for name, size in zip(names, sizes, strict=False):
            tokens = len(tokenizer(row["prompt"] + row[name])["input_ids"]) + 1
            assert size - 8 <= tokens <= size


def test_floor_by_hand():
    """One prompt of 3 tokens, 2 replies of 2 tokens, a body of 10 parameters, a head of 5, one layer of width 2.

    Read: 3 prompt tokens that see 1 + 2 + 3, and the first token of each reply, which sees 4 each. Scored in sampling:
    the prompt's last place and the two tokens read after it; in learning the 4 trained tokens.
    """
    work, m = Work("", length=3, prompts=1, samples=2, new=2), Sizes(15, 10, 5, 1, 2)
    sampling = 2 * 10 * 5 + 4 * 1 * 2 * (6 + 8) + 2 * 5 * 3
    learning = 3 * (2 * 10 * 5 + 4 * 1 * 2 * (6 + 8) + 2 * 5 * 4)
    assert flops(work, m) == (sampling, learning)
    assert flops(replace(work, prompts=7), m) == (7 * sampling, 7 * learning)


def test_floor_of_sampling_is_what_the_ledger_charges_a_group_for_it():
    work, m = Work("", length=51, prompts=1), Sizes(135, 100, 30, 4, 8)
    info = ModelInfo("", None, 135, 135, 100, 30, 4, 8, 49152, 2048, (0,), "float32", "cpu", False)
    charged = formula.bound(info, work.length, work.samples, work.new, passes_backward=0).flops
    assert flops(work, m)[0] == pytest.approx(charged, rel=1e-6)


def test_curves_by_share_of_the_budget_and_what_lies_within_an_interval():
    """Of what was spent: rewards 0, 0.2 and 0.4, 0.9 in two windows. In the second of ten 0, 0.4 and 0.1, mean 1/6 and
    standard error 0.12019, 4.30265 of which are half of the interval."""
    run = {"fraction": [0.1, 0.3, 0.5, 0.8], "reward": [0.0, 0.2, 0.4, 0.9]}
    assert precision.curve(run, 2) == pytest.approx([0.1, 0.65])
    assert np.isnan(precision.curve(run, 8)[0])
    mean, low, high = precision.interval([run, {**run, "reward": [0.4] * 4}, {**run, "reward": [0.1] * 4}], 1)
    assert (mean, low, high) == pytest.approx((1 / 6, 1 / 6 - 0.51712, 1 / 6 + 0.51712), abs=1e-4)
    assert np.isnan(precision.interval([run, run], 1)).tolist() == [False, True, True]
    assert precision.verdict(0.3, 0.2, 0.4) == "yes" and precision.verdict(0.5, 0.2, 0.4) == "no"
    assert precision.verdict(0.3, np.nan, np.nan) == "-"


def test_runs_of_earlier_results_stand_where_products_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "kind", lambda device, dtype: "cast")
    runs = [
        {"dtype": "float32", "seed": 0, "products": "BLAS"},
        {"dtype": "bfloat16", "seed": 0, "products": "cast"},
        {"dtype": "bfloat16", "seed": 1, "products": "rounded"},
    ]
    (tmp_path / "found.json").write_text(json.dumps({"runs": runs}))
    found = precision.earlier(tmp_path / "found.json")
    assert found == {("float32", 0): runs[0], ("bfloat16", 0): runs[1], ("bfloat16", 1): runs[2]}
    assert [precision.stands(run) for run in runs] == [True, True, False]
    assert precision.earlier(tmp_path / "none.json") == {}


def test_rewards_of_different_replies_differ():
    found = reward(["p"] * 3, ["a", "b", "a"])
    assert found[0] == found[2] != found[1] and all(0 <= value < 1 for value in found)


def test_a_cell_that_did_other_work_is_an_error():
    work = Work("", length=3, prompts=1, samples=2, new=100, steps=2)
    cell = {"generated": [200, 199], "updates": 2, "step_s": [1.0, 1.0]}
    assert checked(cell, work) == cell
    assert "error" in checked(cell | {"generated": [200, 197]}, work)
    assert "error" in checked(cell | {"updates": 4}, work)
    assert checked({"error": "killed"}, work) == {"error": "killed"}


def test_cells_of_other_tokens_are_errors_unless_packed():
    ours, theirs = {"shown": 100}, {"shown": 99}
    assert "error" in same(theirs, ours, RAGGED)
    assert same(theirs, ours, replace(RAGGED, packing="packed")) == theirs
    assert same({"shown": 100}, ours, RAGGED) == {"shown": 100}


def test_the_best_cell_is_the_fastest_that_ran():
    cells = {"4": {"step_s": [3.0, 2.0, 9.0]}, "8": {"step_s": [4.0]}, "16": {"error": "killed"}}
    assert best(cells) == ("4", cells["4"])
    assert best({"16": {"error": "killed"}}) == (None, None)
    ragged = {"padded 4": {"tokens": [10], "step_s": [1.0]}, "packed 1": {"tokens": [90], "step_s": [3.0]}}
    assert fastest(ragged)[0] == "packed 1" and fastest(ragged, "padded")[0] == "padded 4"
    assert speed({"tokens": [10, 30, 80], "step_s": [1.0, 2.0, 4.0]}) == 15.0


def test_net_memory_is_the_peak_without_imports_and_state():
    million = Sizes(1024 * 1024, 0, 0, 0, 0)  # parameters: 16 MB of weights, gradients and moments
    assert net({"peak_mb": 500.0, "base_mb": 400.0}, million) == 84.0
