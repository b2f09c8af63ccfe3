"""The other end of ``vllm_process``: starts it in vLLM's environment, asks it, ends it."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from equipoise.engine.ray import vllm_process
from equipoise.engine.ray.slices import Slice, write
from equipoise.errors import ModelError, PeerLost

_SAID = 2000  # characters of what a process that died had written


class Link:
    """A process that holds vLLM. It ends when this object's process does, also by ``kill -9``: the link closes."""

    def __init__(self, python: Path, threads: int, deadline_s: float) -> None:
        mine, theirs = socket.socketpair()
        self._link = mine
        mine.settimeout(deadline_s)
        self._deadline_s = deadline_s
        self._written = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        with theirs:
            self._process = subprocess.Popen(
                [python, "-I", vllm_process.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._written,
                stderr=self._written,
                env=_environment(threads),
            )
        self.pid = self._process.pid

    def ask(self, name: str, descriptors: tuple[int, ...] = (), **arguments: Any) -> Any:
        """A method of ``vllm_process.Server``. Raises PeerLost, and ModelError with what vLLM says: then the process is
        ended, because nobody knows what it was in the middle of."""
        try:
            vllm_process.write(self._link, (name, arguments), descriptors)
            answer, _ = vllm_process.read(self._link)
        except TimeoutError:
            self.close()
            raise PeerLost(f"no answer from vLLM (process {self.pid}) within {self._deadline_s:g} s") from None
        except (EOFError, OSError):
            raise PeerLost(f"vLLM (process {self.pid}) died{self._last_words()}") from None
        if "error" in answer:
            self.close()
            raise ModelError(f"vLLM failed in {name!r}: {answer['error']}")
        return answer["value"]

    def hand(self, name: str, weights: Mapping[str, Tensor], **arguments: Any) -> int:
        """Call a method that takes tensors by name, float32: as a file in memory that touches no disk and ends with the
        call. Returns its bytes."""
        descriptor = os.memfd_create("weights")
        try:
            rows = {name: Slice(tuple(t.shape), 0, t.detach().contiguous().numpy()) for name, t in weights.items()}
            write(Path(f"/proc/self/fd/{descriptor}"), [rows])
            self.ask(name, (descriptor,), **arguments)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._link.close()
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        self._process.kill()
        status = self._process.wait()
        self._written.seek(0)
        text = self._written.read().decode(errors="replace").strip()
        return f" with status {status}" + (f"; it last wrote:\n{text[-_SAID:]}" if text else "")


def _environment(threads: int) -> dict[str, str]:
    """vLLM in one process, quiet, offline where this process is, on as many threads as this one, bound to no core."""
    return {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
    }
