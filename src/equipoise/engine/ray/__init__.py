"""The engine of a cluster: learners as FSDP2 ranks, samplers as processes of their own, placed and watched by Ray."""

from __future__ import annotations

from typing import Any

from equipoise.errors import ArgumentError, MissingExtra
from equipoise.models import resolve

DEADLINE_S = 1800.0  # of every wait for another process


def load(
    model: str,
    *,
    learners: int = 1,
    samplers: int = 1,
    address: str | None = None,
    threads: int | None = None,
    deadline_s: float = DEADLINE_S,
    device: str = "auto",
    **settings: Any,
) -> Any:
    """A :class:`RayEngine` of a model by name; settings as for the local engine's ``load``.

    ``learners``: ranks that hold the model between them. ``samplers``: processes that hold a whole one each.
    ``address``: of a running cluster ("auto": the one on this machine); None starts one that ends with this process.
    ``threads``: of every process; None: torch's number here. ``deadline_s``: the longest that any answer may take.

    Raises ArgumentError, MissingExtra, PeerLost, and what the local ``load`` raises.
    """
    try:
        import ray  # noqa: F401
    except ImportError as cause:
        raise MissingExtra("ray, which runs a cluster,", "pip install 'equipoise[ray]'") from cause
    import torch

    from equipoise.engine.ray.cluster import Cluster
    from equipoise.engine.ray.engine import RayEngine

    if device not in ("auto", "cpu"):
        raise ArgumentError(f"--device {device} with --engine ray: a cluster's processes compute on CPU so far")
    resolve(model)  # a name that is wrong is told before anything is started
    cluster = Cluster(address, learners + samplers, deadline_s)
    try:
        spec = {"model": model, "device": "cpu", **settings}
        return RayEngine(cluster, spec, learners, samplers, threads or torch.get_num_threads())
    except BaseException:
        cluster.close()
        raise
