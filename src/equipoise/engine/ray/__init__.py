"""The engine of a cluster: learners as FSDP2 ranks, samplers as processes of their own, placed and watched by Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from equipoise.errors import ArgumentError, MissingExtra, UnknownName
from equipoise.models import resolve

if TYPE_CHECKING:
    from equipoise.engine.ray.engine import RayEngine
    from equipoise.engine.ray.peers import Sampler

DEADLINE_S = 1800.0  # of every wait for another process
SAMPLERS = ("local", "vllm")


def load(
    model: str,
    *,
    learners: int = 1,
    samplers: int = 1,
    sampler: str = "local",
    address: str | None = None,
    threads: int | None = None,
    deadline_s: float = DEADLINE_S,
    device: str = "auto",
    **settings: Any,
) -> RayEngine:
    """An engine of a model by name; settings as for the local engine's ``load``.

    ``learners``: ranks that hold the model between them. ``samplers``: processes that hold a whole one each, of the
    kind ``sampler``. ``address``: of a running cluster ("auto": the one on this machine); None: the one that this
    process is connected to, or else one is started that ends with it. ``threads``: of every process; None: torch's
    number here. ``deadline_s``: the longest that any answer may take.

    Raises ArgumentError, UnknownName, MissingExtra, PeerLost, and what the local ``load`` raises.
    """
    require()
    import torch

    from equipoise.engine.ray.cluster import Cluster
    from equipoise.engine.ray.engine import RayEngine

    if device not in ("auto", "cpu"):
        raise ArgumentError(f"--device {device} with --engine ray: a cluster's processes compute on CPU so far")
    kind = _sampler(sampler, address)
    resolve(model)  # a name that is wrong is told before anything is started
    cluster = Cluster(address, learners + samplers, deadline_s)
    try:
        spec = {"model": model, "device": "cpu", **settings}
        return RayEngine(cluster, spec, learners, samplers, kind, threads or torch.get_num_threads())
    except BaseException:
        cluster.close()
        raise


def require() -> None:
    """Raises MissingExtra where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as cause:
        raise MissingExtra("ray, which runs a cluster,", "pip install 'equipoise[ray]'") from cause


def _sampler(name: str, address: str | None) -> type[Sampler]:
    """The class that a sampler's process holds."""
    from equipoise.engine.ray.peers import Sampler

    if name not in SAMPLERS:
        raise UnknownName("sampler", name, SAMPLERS)
    if name == "local":
        return Sampler
    from equipoise.engine.ray.vllm_env import interpreter
    from equipoise.engine.ray.vllm_sampler import VllmSampler

    if address is None:
        interpreter()  # what is missing here is told before anything is started
    return VllmSampler
