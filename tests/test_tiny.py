"""The shipped model: opened by plain transformers, imperfect on purpose, and never shown a prompt of any split."""

from __future__ import annotations

import importlib
import itertools
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import equipoise
from equipoise import tasks
from equipoise.tasks import procedural, splits

FOLDER = Path(equipoise.__file__).parent / "models" / "tiny"
SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    def refuse(*args: object) -> None:
        raise AssertionError("a network connection was tried")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        return AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)


def test_it_is_small_and_complete(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    assert 500_000 < model.num_parameters() < 1_500_000
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 6e6
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert "Apache-2.0" in (FOLDER / "README.md").read_text()


def test_the_template_marks_what_the_assistant_says(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is 1+2?"},
        {"role": "assistant", "content": "1+2=3: 3"},
        {"role": "user", "content": "Sort: 2 1"},
        {"role": "assistant", "content": "1 2"},
    ]
    out = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, spoken in zip(out["input_ids"], out["assistant_masks"], strict=True) if spoken]
    assert tokenizer.decode(said) == "1+2=3: 3<|end|>1 2<|end|>"
    # Generation goes on exactly where training's prompt ended.
    begun = tokenizer.apply_chat_template(chat[:2], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert out["input_ids"][: len(begun)] == begun


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_has_an_encoding(tiny: tuple[Any, Any], text: str) -> None:
    _, tokenizer = tiny
    assert tokenizer.decode(tokenizer.encode(text, split_special_tokens=True)) == text


def test_a_digit_is_one_token(tiny: tuple[Any, Any]) -> None:
    _, tokenizer = tiny
    pieces = tokenizer.tokenize("357+468 and 10, 20: 3")
    assert [p for p in pieces if any(c.isdigit() for c in p)] == list("3574681020" + "3")


@pytest.mark.parametrize("name", ["addition", "lists"])
def test_it_is_imperfect_on_purpose(tiny: tuple[Any, Any], name: str) -> None:
    model, tokenizer = tiny
    task = tasks.load(name)
    assert task.verify
    prompts = [p for p in task.splits["test"][:100] for _ in range(4)]
    tokenizer.padding_side = "left"
    chats = [list(p.messages) for p in prompts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=task.max_new_tokens, do_sample=True, top_k=0)
    replies = out[:, inputs["input_ids"].shape[1] :]
    ended = (replies == tokenizer.eos_token_id).any(1).float().mean()
    scores = task.verify(prompts, tokenizer.batch_decode(replies, skip_special_tokens=True))
    right = torch.tensor([s.value for s in scores]).view(-1, 4)
    assert ended > 0.97, "the task's max_new_tokens must leave room for the end token"
    assert 0.15 < right.mean() < 0.65
    assert right.amax(1).mean() > right.mean() + 0.2, "several samples must find what one does not"


def test_no_split_was_in_its_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procedural, "PRETRAIN", 200)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    sys.modules.pop("tiny_corpus", None)
    corpus = importlib.import_module("tiny_corpus")
    talks = itertools.islice(corpus.conversations(3), 4000)
    asked = {splits.hash_of(said) for talk in talks for said, _ in talk}
    assert len(asked) > 1000
    assert {splits.split_of(word) for word in asked} == {"pretrain"}
    for name, difficulty in [*corpus.MIX, ("instruct", 1)]:
        task = tasks.load(name, difficulty=difficulty)
        for split in ("train", "validation", "test"):
            assert not asked & {splits.hash_of(splits.text_of(p)) for p in task.splits[split][:1000]}
