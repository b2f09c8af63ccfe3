"""Text to tokens and back: chat templates, which tokens of a reply are trained, boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from equipoise.errors import DataError, ModelError, TooLong
from equipoise.types import Message, Prompt, Reply, Response, Stop


@dataclass(frozen=True)
class Text:
    """A tokenizer with its chat template and the model's limits."""

    tokenizer: Any
    name: str  # of the model, for messages
    eos: tuple[int, ...]
    context: int

    def encode(self, prompt: Prompt) -> Prompt:
        """Fill ``ids``. Raises ModelError when no room for a response is left, or a template or text is missing."""
        if prompt.messages:
            self.need_eos()
            ids = self.ids(self._render(prompt.messages, open_turn=True))
        elif prompt.text:
            ids = tuple(self.tokenizer(prompt.text)["input_ids"])
        else:
            raise DataError(f"prompt {prompt.id!r} has neither messages nor text, so nothing precedes a response.")
        if len(ids) >= self.context:
            raise TooLong(
                f"prompt {prompt.id!r} is {len(ids)} tokens long and model {self.name!r} reads at most {self.context}: "
                "no room is left for a response. Shorten the prompt or choose a model with a longer context."
            )
        return replace(prompt, ids=ids)

    def encode_reply(self, prompt: Prompt, reply: Reply, origin: str) -> Response:
        """Tokens of a given reply, such that prompt and response are the template of the whole conversation."""
        if prompt.ids is None:
            prompt = self.encode(prompt)
        if prompt.messages:
            turns = ({"role": "assistant", "content": reply},) if isinstance(reply, str) else tuple(reply)
            ids, trained, segment = self._turns(prompt, turns)
        else:
            if not isinstance(reply, str):
                raise DataError(f"prompt {prompt.id!r} is plain text, so its reply must be text and not messages.")
            self.need_eos()
            ids = [*self.tokenizer(reply, add_special_tokens=False)["input_ids"], self.eos[0]]
            trained, segment = [True] * len(ids), [0] * len(ids)
        full = len(prompt.ids or ()) + len(ids)
        if full > self.context:
            raise TooLong(
                f"prompt {prompt.id!r} with its reply is {full} tokens long and model {self.name!r} reads at most "
                f"{self.context}. Shorten or drop the row."
            )
        return self.response(ids, None, trained, segment, origin=origin)

    def response(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float] | None,
        trained: Sequence[bool],
        segment: Sequence[int],
        *,
        stop: Stop = "eos",
        **rest: Any,
    ) -> Response:
        return Response(
            ids=np.array(ids, dtype=np.int64),
            logprobs=None if logprobs is None else np.array(logprobs, dtype=np.float32),
            trained=np.array(trained, dtype=np.bool_),
            segment=np.array(segment, dtype=np.int32),
            text=self.decode(ids),
            stop=stop,
            **rest,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return cast(str, self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def turn(self, text: str) -> tuple[int, ...]:
        """Tokens of a user's turn that follows an assistant's end token, until the assistant speaks again.

        Raises ModelError when the template does not render a conversation as its beginning and the rest."""
        self.need_eos()
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        before = self._render(messages)
        after = self._render([*messages, {"role": "user", "content": text}], open_turn=True)
        known, ids = self.ids(before), self.ids(after)
        last = max((i for i, t in enumerate(known) if t in self.eos), default=None)
        if last is None or ids[: last + 1] != known[: last + 1]:
            raise self._broken(Prompt(id="a conversation of two turns"))
        return ids[last + 1 :]

    def need_eos(self) -> None:
        """Raises ModelError when nothing could end a turn."""
        if not self.eos:
            raise ModelError(
                f"model {self.name!r} has no end-of-sequence token, so a turn can neither end nor be taught to. Set "
                "eos_token in its tokenizer_config.json (and eos_token_id in its config.json) to the token that ends "
                "a turn in its chat template."
            )

    def _turns(self, prompt: Prompt, turns: Sequence[Message]) -> tuple[list[int], list[bool], list[int]]:
        """Ids, trained and segment of every turn after the prompt; ends with the last trained end token."""
        self.need_eos()
        if not turns or turns[0].get("role") != "assistant":
            raise DataError(f"the reply to prompt {prompt.id!r} must begin with an assistant turn, which is trained.")
        ids, messages = list(prompt.ids or ()), list(prompt.messages)
        trained, segment = [False] * len(ids), [0] * len(ids)
        for number, turn in enumerate(turns):
            assistant = turn.get("role") == "assistant"
            if assistant:
                opened = self.ids(self._render(messages, open_turn=True))
                _extend(ids, opened, trained, segment, False, number, self._broken(prompt))
            messages.append(turn)
            closed = self.ids(self._render(messages))
            start = len(ids)
            _extend(ids, closed, trained, segment, assistant, number, self._broken(prompt))
            if assistant:
                self._end(prompt, ids, trained, start)
        start, size = len(prompt.ids or ()), max(i for i, t in enumerate(trained) if t) + 1
        return ids[start:size], trained[start:size], segment[start:size]

    def _end(self, prompt: Prompt, ids: Sequence[int], trained: list[bool], start: int) -> None:
        """Leave untrained what the template puts after an assistant turn's end token (a line break)."""
        last = max((i for i in range(start, len(ids)) if ids[i] in self.eos), default=None)
        if last is None:
            raise ModelError(
                f"the chat template of model {self.name!r} ends an assistant turn with none of its end tokens "
                f"{[self.tokenizer.convert_ids_to_tokens(e) for e in self.eos]} (prompt {prompt.id!r}), so the end of "
                "a turn would never be learned. Correct the template or eos_token."
            )
        trained[last + 1 :] = [False] * (len(ids) - last - 1)

    def _broken(self, prompt: Prompt) -> ModelError:
        return ModelError(
            f"the chat template of model {self.name!r} keeps no prefix (prompt {prompt.id!r}): the conversation "
            "with one more turn does not begin with the tokens of the conversation before it, so what is trained would "
            "not be what is sampled. Use a template that renders earlier turns the same way whatever follows. "
            f"Template: {str(self.tokenizer.chat_template)[:200]!r}"
        )

    def _render(self, messages: Sequence[Message], open_turn: bool = False) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(
                f"model {self.name!r} has no chat template, and the prompt is a list of messages. Add "
                "chat_template.jinja to the model's folder, choose an instruction-tuned model, or give prompts as text."
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=open_turn
            )
        except Exception as cause:  # boundary: a template is the model author's program
            raise ModelError(
                f"the chat template of model {self.name!r} refused a conversation with roles "
                f"{[m.get('role') for m in messages]}: {cause}"
            ) from cause
        return cast(str, text)

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a text as it is, no special token added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _extend(
    ids: list[int],
    longer: Sequence[int],
    trained: list[bool],
    segment: list[int],
    train: bool,
    number: int,
    error: ModelError,
) -> None:
    """Grow ``ids`` to ``longer``, which must begin with them."""
    if list(longer[: len(ids)]) != ids:
        raise error
    new = len(longer) - len(ids)
    ids += longer[len(ids) :]
    trained += [train] * new
    segment += [number] * new


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a response: the tokenizer's first, then those of the generation settings and configuration."""
    found: list[int] = []
    for source in (tokenizer, getattr(model, "generation_config", None), model.config.get_text_config()):
        value = getattr(source, "eos_token_id", None)
        found += value if isinstance(value, list) else [] if value is None else [value]
    return tuple(dict.fromkeys(int(v) for v in found))
