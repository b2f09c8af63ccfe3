"""Ranks as forked processes of a test: what they compute needs no cluster."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from typing import Any

DEADLINE_S = 300.0  # a slow machine is no fault


def on_ranks(ranks: int, work: Callable[[int], Any]) -> list[Any]:
    """``work(rank)`` on each of ``ranks`` processes that have met over gloo; what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(ranks)]
    workers = [fork.Process(target=_work, args=(work, address, k, ranks, pipes[k][1])) for k in range(ranks)]
    for worker in workers:
        worker.start()
    try:
        found = [here.recv() if here.poll(DEADLINE_S) else f"rank {k} is silent" for k, (here, _) in enumerate(pipes)]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    faults = [fault for fault in found if isinstance(fault, str)]
    assert not faults, "\n".join(faults)
    return [result for (result,) in found]


def _work(work: Callable[[int], Any], address: str, rank: int, ranks: int, pipe: Any) -> None:
    import torch

    from equipoise.engine.ray.rank import join

    torch.set_num_threads(1)  # OpenMP's threads, which the parent may have used, do not survive a fork
    try:
        join(address, rank, ranks, DEADLINE_S)
        pipe.send((work(rank),))
    except BaseException:  # noqa: BLE001  # boundary: whatever it was is told to the test
        pipe.send(traceback.format_exc())
