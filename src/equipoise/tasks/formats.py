"""The ecosystem's row formats, read into one shape.

    messages     messages: every turn; the prompt is what stands before the first assistant turn
    preference   prompt, chosen, rejected (prompt may be left out where both are turns with a common beginning)
    labelled     prompt, completion, label
    completion   prompt, completion
    prompt       prompt, and usually answer
    alpaca       instruction, output, and optionally input, system, history
    sharegpt     conversations: turns with from and value, and optionally system
    verl         prompt as turns, reward_model.ground_truth, and optionally extra_info, data_source

Prompts and replies are text or lists of turns with role and content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from equipoise.types import Message, Reply

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """What the user calls each column, and whether text prompts are put to the model as a user's turn."""

    prompt: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    label: str = "label"
    messages: str = "messages"
    answer: str = "answer"
    id: str = "id"
    split: str = "split"
    chat: bool = False


@dataclass(frozen=True)
class Example:
    """A row in one shape. Exactly one of ``messages`` and ``text`` is given."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    reply: Reply | None = None
    pair: tuple[Reply, Reply] | None = None
    label: bool | None = None
    answer: Any = None
    rest: Row = field(default_factory=dict)  # the other columns


class Malformed(ValueError):
    """A row that is not what its format asks for: ``column``, what was ``got``, what was ``expected``."""

    def __init__(self, column: str, got: str, expected: str) -> None:
        super().__init__(f"{column}: {got}, expected {expected}")
        self.column, self.got, self.expected = column, got, expected


def detect(row: Row, names: Columns) -> str | None:
    """The format of a row by the columns that are filled; None for an unknown one."""
    has = {key for key, value in row.items() if value is not None}
    if {names.chosen, names.rejected} <= has:
        return "preference"
    if names.messages in has:
        return "messages"
    if "conversations" in has:
        return "sharegpt"
    if {names.prompt, "reward_model"} <= has:
        return "verl"
    if {names.prompt, names.completion, names.label} <= has:
        return "labelled"
    if {names.prompt, names.completion} <= has:
        return "completion"
    if {"instruction", "output"} <= has:
        return "alpaca"
    return "prompt" if names.prompt in has else None


def read(row: Row, form: str, names: Columns) -> Example:
    """A row of the format ``form``. Raises Malformed."""
    used, example = _READERS[form](row, names)
    answer = example.answer if example.answer is not None else row.get(names.answer)
    taken = {*used, names.answer, names.id, names.split}
    rest = {k: v for k, v in row.items() if k not in taken and v is not None}
    return Example(example.messages, example.text, example.reply, example.pair, example.label, answer, rest)


Reader = Callable[[Row, Columns], tuple[Sequence[str], Example]]  # the columns used, what they hold


def _messages(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    return [names.messages], _conversation(_turns(row[names.messages], names.messages), names.messages)


def _sharegpt(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    value = row["conversations"]
    if not isinstance(value, list):
        raise Malformed("conversations", _kind(value), "a list of turns")
    turns = _turns([_from_value(turn) for turn in value], "conversations")
    return ["conversations", "system"], _conversation(_system(row) + turns, "conversations")


def _alpaca(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    asked = _text(row["instruction"], "instruction")
    extra = row.get("input") or ""
    past = row.get("history") or []
    if not isinstance(past, list) or not all(isinstance(p, list) and len(p) == 2 for p in past):
        raise Malformed("history", _kind(past), "a list of [instruction, output] pairs")
    earlier = [turn for said, heard in past for turn in (_turn("user", said), _turn("assistant", heard))]
    asked = f"{asked}\n\n{extra}" if extra else asked
    prompt = (*_system(row), *earlier, _turn("user", asked))
    used = ["instruction", "input", "output", "system", "history"]
    return used, Example(messages=prompt, reply=_text(row["output"], "output"))


def _preference(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    used = [names.prompt, names.chosen, names.rejected]
    chosen, rejected = row[names.chosen], row[names.rejected]
    if row.get(names.prompt) is None:
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise Malformed(names.prompt, "nothing", "a prompt (it can be left out only where both replies are turns)")
        ours, theirs = _turns(chosen, names.chosen), _turns(rejected, names.rejected)
        shared = _common(ours, theirs)
        if not shared or len(shared) in (len(ours), len(theirs)):
            raise Malformed(names.chosen, "no common beginning that leaves two replies", "turns that begin alike")
        return used, Example(messages=shared, pair=(_reply(ours[len(shared) :]), _reply(theirs[len(shared) :])))
    example = _prompt(row, names)
    both = tuple(_answered(row[c], c, example) for c in (names.chosen, names.rejected))
    return used, Example(example.messages, example.text, pair=(both[0], both[1]))


def _completion(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    example = _prompt(row, names)
    reply = _answered(row[names.completion], names.completion, example)
    return [names.prompt, names.completion], Example(example.messages, example.text, reply=reply)


def _labelled(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    used, example = _completion(row, names)
    label = {"true": True, "false": False, "1": True, "0": False}.get(str(row[names.label]).lower())
    if label is None:
        raise Malformed(names.label, repr(row[names.label])[:60], "true or false")
    return [*used, names.label], Example(example.messages, example.text, reply=example.reply, label=label)


def _only_prompt(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    return [names.prompt], _prompt(row, names)


def _verl(row: Row, names: Columns) -> tuple[Sequence[str], Example]:
    model = row["reward_model"]
    if not isinstance(model, Mapping) or "ground_truth" not in model:
        raise Malformed("reward_model", _kind(model), "an object with ground_truth")
    example = _prompt(row, names)
    return [names.prompt, "reward_model"], Example(example.messages, example.text, answer=model["ground_truth"])


_READERS: Mapping[str, Reader] = {
    "messages": _messages,
    "preference": _preference,
    "labelled": _labelled,
    "completion": _completion,
    "prompt": _only_prompt,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "verl": _verl,
}
FORMATS = tuple(_READERS)


def _prompt(row: Row, names: Columns) -> Example:
    value = row[names.prompt]
    if isinstance(value, str):
        text = _text(value, names.prompt)
        return Example(messages=(_turn("user", text),)) if names.chat else Example(text=text)
    return Example(messages=_turns(value, names.prompt))


def _answered(value: object, column: str, example: Example) -> Reply:
    """A reply that goes with its prompt: turns only after turns."""
    if isinstance(value, str):
        return _text(value, column)
    if example.text is not None:
        raise Malformed(column, _kind(value), "text, because the prompt is text")
    turns = _turns(value, column)
    if not any(t["role"] == "assistant" for t in turns):
        raise Malformed(column, f"roles {[t['role'] for t in turns]}", "at least one assistant turn")
    return _reply(turns)


def _conversation(turns: tuple[Message, ...], column: str) -> Example:
    """The prompt is everything before the first assistant turn, the reply everything from it on."""
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
    if first == 0:
        raise Malformed(column, "an assistant turn at the beginning", "a user turn before it")
    return Example(messages=turns[:first], reply=_reply(turns[first:]) if first < len(turns) else None)


def _reply(turns: tuple[Message, ...]) -> Reply:
    """One plain assistant turn is its text; anything more stays turns."""
    if len(turns) == 1 and turns[0].keys() == {"role", "content"} and isinstance(turns[0]["content"], str):
        return str(turns[0]["content"])
    return turns


def _turns(value: object, column: str) -> tuple[Message, ...]:
    """Checked turns. Raises Malformed."""
    if not isinstance(value, list) or not value:
        raise Malformed(column, _kind(value), "text or a list of turns, each with role and content")
    for place, turn in enumerate(value):
        at = f"{column}[{place}]"
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise Malformed(at, _kind(turn), "an object with role and content")
        content = turn.get("content")
        if isinstance(content, str):
            if not content.strip() and not turn.get("tool_calls") and turn["role"] in ("user", "assistant"):
                raise Malformed(at, "empty content", "some text")
        elif not turn.get("tool_calls") and not isinstance(content, list):
            raise Malformed(f"{at}.content", _kind(content), "text")
    return tuple({k: v for k, v in turn.items() if v is not None or k == "content"} for turn in value)


_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function_call": "assistant",
          "observation": "tool"}  # fmt: skip


def _from_value(turn: object) -> object:
    """ShareGPT's from and value as role and content."""
    if isinstance(turn, Mapping) and "from" in turn and "value" in turn:
        return {"role": _ROLES.get(str(turn["from"]), str(turn["from"])), "content": turn["value"]}
    return turn


def _system(row: Row) -> tuple[Message, ...]:
    system = row.get("system")
    return (_turn("system", system),) if isinstance(system, str) and system else ()


def _turn(role: str, content: object) -> Message:
    return {"role": role, "content": _text(content, role)}


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise Malformed(column, _kind(value), "text")
    if not value.strip():
        raise Malformed(column, "empty text", "some text")
    return value


def _common(ours: tuple[Message, ...], theirs: tuple[Message, ...]) -> tuple[Message, ...]:
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    return ours[:same]


def _kind(value: object) -> str:
    if isinstance(value, list | Mapping) and not value:
        return f"an empty {type(value).__name__}"
    return "nothing" if value is None else f"{type(value).__name__} {repr(value)[:60]}"
