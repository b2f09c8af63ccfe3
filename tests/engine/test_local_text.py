"""Templates, end tokens and boundaries: what is trained is what would be sampled."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import TEMPLATE, make_engine, make_tokenizer

from equipoise.errors import DataError, ModelError
from equipoise.types import Prompt

ASK = Prompt("p", messages=({"role": "user", "content": "hi"},))


@pytest.fixture(scope="module")
def engine() -> Any:
    return make_engine()


def shown(engine: Any, response: Any) -> str:
    """Trained tokens in upper case brackets."""
    pieces = []
    for token, trained in zip(
        engine.tokenizer.convert_ids_to_tokens(response.ids.tolist()), response.trained, strict=True
    ):
        pieces.append(f"[{token}]" if trained else token)
    return "".join(pieces)


def test_prompt_is_the_template_with_the_assistants_turn_opened(engine: Any) -> None:
    ids = engine.encode(ASK).ids
    assert engine.tokenizer.decode(list(ids)) == "<|start|>user\nhi<|end|>\n<|start|>assistant\n"


def test_a_reply_is_trained_with_its_end_token_and_nothing_after_it(engine: Any) -> None:
    response = engine.encode_reply(engine.encode(ASK), "yo", "demonstration")
    assert shown(engine, response) == "[y][o][<|end|>]"
    assert (response.text, response.origin, response.logprobs) == ("yo", "demonstration", None)


def test_every_assistant_turn_is_trained_and_no_other(engine: Any) -> None:
    prompt = engine.encode(ASK)
    turns = (
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "left out"},
    )
    response = engine.encode_reply(prompt, turns, "demonstration")
    opening = "<|start|>assistant\n"
    assert shown(engine, response) == f"[a][<|end|>]\n<|start|>user\nb<|end|>\n{opening}[c][<|end|>]"
    assert response.segment[[0, 1, 3, -1]].tolist() == [0, 0, 1, 2]
    whole = engine.tokenizer.apply_chat_template([*ASK.messages, *turns[:3]], tokenize=False)
    assert engine.tokenizer.decode([*prompt.ids, *response.ids]) + "\n" == whole


def test_plain_text_is_taken_as_it_is_and_replies_end(engine: Any) -> None:
    prompt = engine.encode(Prompt("t", text="1+1="))
    assert engine.tokenizer.decode(list(prompt.ids)) == "1+1="
    assert shown(engine, engine.encode_reply(prompt, "2", "demonstration")) == "[2][<|end|>]"


@pytest.mark.parametrize(
    ("template", "eos", "message"),
    [
        (None, "<|end|>", "has no chat template.*chat_template.jinja"),
        (TEMPLATE, None, "no end-of-sequence token.*eos_token"),
        (TEMPLATE.replace("<|end|>", ""), "<|end|>", "ends an assistant turn with none of its end tokens"),
        ("{{ messages | length }}" + TEMPLATE, "<|end|>", "keeps no prefix"),
        ("{{ raise_exception('no system turn') }}", "<|end|>", "refused a conversation.*no system turn"),
    ],
)
def test_a_template_that_cannot_be_trained_is_refused(template: str | None, eos: str | None, message: str) -> None:
    changes = {} if eos else {"eos_token_id": None}
    engine = make_engine(tokenizer=make_tokenizer(template, eos), changes=changes)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        engine.encode_reply(engine.encode(ASK), "yo", "demonstration")


def test_a_model_without_chat_template_answers_plain_text() -> None:
    engine = make_engine(tokenizer=make_tokenizer(None))
    assert engine.encode(Prompt("t", text="1+1=")).ids


def test_prompts_that_cannot_be_answered_are_refused(engine: Any) -> None:
    with pytest.raises(ModelError, match=r"300 tokens long.*at most 256"):
        engine.encode(Prompt("long", text="x" * 300))
    with pytest.raises(DataError, match="neither messages nor text"):
        engine.encode(Prompt("none"))
    with pytest.raises(ModelError, match=r"with its reply is 2.. tokens"):
        engine.encode_reply(engine.encode(Prompt("t", text="x" * 200)), "y" * 80, "demonstration")
    with pytest.raises(DataError, match="begin with an assistant turn"):
        engine.encode_reply(engine.encode(ASK), ({"role": "user", "content": "b"},), "demonstration")
    with pytest.raises(DataError, match="plain text"):
        engine.encode_reply(engine.encode(Prompt("t", text="x")), ({"role": "assistant", "content": "b"},), "d")
