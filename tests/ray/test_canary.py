"""The canary in a real cluster: a sampler that kept a weight from before is heard at the next publication."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_models import make_model, make_tokenizer, policy_gradient, rollouts

from equipoise.engine.batch import count
from equipoise.engine.ray.cluster import Cluster
from equipoise.engine.ray.engine import RayEngine
from equipoise.engine.ray.peers import Sampler
from equipoise.errors import Mismatch


def test_a_sampler_that_kept_a_weight_stops_the_run(tmp_path: Path) -> None:
    class Forgetful(Sampler):  # as vLLM would be, were the head not packed again
        checked = True

        def receive(self, policy: str, parts: Sequence[Any]) -> int:
            kept = self.engine.trained["model.norm.weight"].detach().clone()
            size = super().receive(policy, parts)
            self.engine.trained["model.norm.weight"].data.copy_(kept)
            return size

        def logprobs(self, ids: Sequence[int], policy: str) -> list[float]:
            from equipoise.engine.ray.canary import Canary

            group = Canary(tuple(ids), 0.0).group()
            found: list[float] = self.engine.outputs([group], ["logp"], policy)[0]["logp"][0].tolist()
            return found

    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    cluster = Cluster(None, 2, 100.0)
    try:
        engine = RayEngine(cluster, {"model": str(tmp_path), "device": "cpu"}, 1, 1, Forgetful, 1)
        assert engine.timings() == {"published": 0, "published_bytes": 0, "published_s": 0.0}
        spent = engine.spent()
        groups = rollouts(engine, prompts=2, samples=2)  # it was published, and nothing had changed
        first = engine.timings()
        assert first["published"] == 1 and first["published_bytes"] == 4 * engine.info.parameters
        assert first["canary"] < 1e-5 and first["published_s"] > 0
        assert engine.spent().trained_tokens == spent.trained_tokens
        rollouts(engine, prompts=1, samples=1)
        assert engine.timings()["published"] == 0
        engine.backward(groups, policy_gradient(), count(groups))
        engine.step(0.02)
        with pytest.raises(Mismatch, match=r"sampler 0 .*'current'.* nats; expected at most 0.001"):
            rollouts(engine, prompts=2, samples=2)
        with pytest.raises(Mismatch):  # nor does it sample afterwards
            rollouts(engine, prompts=2, samples=2)
    finally:
        cluster.close()
