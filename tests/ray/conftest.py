"""One Ray cluster for all tests of a process: to start one takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def connected() -> Iterator[None]:
    """This process is connected to a cluster of its own."""
    import ray
    from equipoise.engine.ray.cluster import Cluster

    mine = Cluster(None, 16, 300.0)
    yield
    mine.close()
    assert not ray.is_initialized()
