"""The program that holds vLLM. It runs in vLLM's own Python environment, where Equipoise is not installed: this file
imports nothing of the package, and what starts it (``vllm_link``) imports the way messages are written from here.

A message is its length, 8 bytes, then JSON; weights come as the descriptor of a safetensors file in memory, sent along
with the message. The process ends when whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

LENGTH = 8  # bytes of a message's length
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, that vLLM can make room for


def write(link: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a message; descriptors are received with it by ``read``."""
    content = json.dumps(message).encode()
    socket.send_fds(link, [len(content).to_bytes(LENGTH, "little")], descriptors)
    link.sendall(content)


def read(link: socket.socket) -> tuple[Any, list[int]]:
    """The next message and its descriptors. Raises EOFError when the other side is gone, TimeoutError."""
    head, descriptors, *_ = socket.recv_fds(link, LENGTH, 1)
    length = int.from_bytes(head + _exactly(link, LENGTH - len(head)), "little")
    return json.loads(_exactly(link, length)), descriptors


def _exactly(link: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = link.recv(min(size - len(content), 1 << 20))
        if not part:
            raise EOFError("the other side is gone")
        content += part
    return bytes(content)


class Server:
    """vLLM with the methods that ``vllm_link`` calls."""

    llm: Any
    adapter: Any = None  # vLLM's request for it
    adapters = 0  # that there have been

    def open(self, folder: str, dtype: str, context: int, cache_bytes: int, lora_rank: int) -> None:
        """``lora_rank``: of the adapters that will be published; 0: none will."""
        from vllm import LLM
        from vllm.platforms import current_platform

        # Where a prompt is read in pieces, vLLM takes back a seeded draw, which a generator on CPU cannot.
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, context)}
        self.llm = LLM(
            model=folder,  # configuration and tokenizer only: weights are published
            load_format="dummy",
            generation_config="vllm",
            dtype=dtype,
            max_model_len=context,
            kv_cache_memory_bytes=cache_bytes,
            enforce_eager=current_platform.is_cpu(),  # compiling would take longer than most runs there
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            enable_lora=lora_rank > 0,
            max_lora_rank=next(rank for rank in RANKS if rank >= lora_rank),
            max_loras=1,
            **(whole if current_platform.is_cpu() else {}),
        )

    def load(self, descriptor: int) -> None:
        """Weights from a safetensors file, in place of those that are there; what was cached of those is forgotten."""
        from safetensors import safe_open

        with safe_open(f"/proc/self/fd/{descriptor}", "pt") as file:
            self.llm.collective_rpc(_reload, args=(file,))
        self._forget()

    def adapt(self, descriptor: int, folder: str) -> None:
        """Low-rank adapters in place of those that are there: configured in a folder, weights as for ``load``."""
        from vllm.lora.request import LoRARequest

        place = os.path.join(folder, "adapter_model.safetensors")
        os.symlink(f"/proc/self/fd/{descriptor}", place)
        if self.adapter is not None:
            self.llm.llm_engine.remove_lora(self.adapter.lora_int_id)
        self.adapters += 1
        self.adapter = LoRARequest(f"adapter {self.adapters}", self.adapters, folder)
        self.llm.llm_engine.add_lora(self.adapter)
        self._forget()

    def _forget(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which holds what the weights before said")

    def sample(self, requests: list[dict[str, Any]], **shared: Any) -> list[dict[str, Any]]:
        """For each of ``requests`` (ids, max_tokens, seed): the ids that were sampled, their log-probs, why it stopped.
        ``shared``: sampling parameters of all."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": r["ids"]} for r in requests]
        own = [
            SamplingParams(max_tokens=r["max_tokens"], seed=r["seed"], logprobs=0, ignore_eos=True, **shared)
            for r in requests
        ]  # the ids that end a response are given by name, so vLLM's own idea of them is left out
        return [_said(output.outputs[0]) for output in self._generate(prompts, own)]

    def logprobs(self, ids: list[int]) -> list[float]:
        """Of each token of a sequence but the first, at temperature 1; nothing cached is used."""
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        [output] = self._generate([{"prompt_token_ids": ids}], asked)
        return [places[token].logprob for token, places in zip(ids[1:], output.prompt_logprobs[1:], strict=True)]

    def _generate(self, prompts: Any, parameters: Any) -> list[Any]:
        found: list[Any] = self.llm.generate(prompts, parameters, use_tqdm=False, lora_request=self.adapter)
        return found


def _said(found: Any) -> dict[str, Any]:
    ids = list(found.token_ids)
    logprobs = [places[token].logprob for token, places in zip(ids, found.logprobs, strict=True)]
    sequence = found.finish_reason == "stop" and isinstance(found.stop_reason, str)
    return {"ids": ids, "logprobs": logprobs, "sequence": sequence}


def _reload(worker: Any, file: Any) -> None:
    """In vLLM's worker. A head that is tied to the table gets no weights of its own to load, and on CPU multiplies by a
    copy that was packed from the table as it was before: it is packed again."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    def weights() -> Iterator[tuple[str, Any]]:
        for name in file.keys():  # noqa: SIM118  # no mapping
            yield name, file.get_tensor(name)

    worker.model_runner.reload_weights(weights_iterator=weights())
    for module in worker.model_runner.get_model().modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def _end_with(link: socket.socket) -> None:
    """End this process at once when the other side of the link is closed, whatever is under way."""

    def watch() -> None:
        gone = select.poll()
        gone.register(link, select.POLLRDHUP | select.POLLHUP)
        gone.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(descriptor: int) -> None:
    link = socket.socket(fileno=descriptor)
    _end_with(link)
    server = Server()
    while True:
        (name, arguments), descriptors = read(link)
        try:
            answer = {"value": getattr(server, name)(*descriptors, **arguments)}
        except Exception as cause:  # noqa: BLE001  # boundary: whatever vLLM raises is told to who asked
            answer = {"error": f"{type(cause).__name__}: {cause}"}
        for received in descriptors:
            os.close(received)
        write(link, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
