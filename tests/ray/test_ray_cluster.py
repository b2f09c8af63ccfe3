"""A real cluster of this machine: the same numbers as the local engine, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small_models import make_model, make_tokenizer, policy_gradient, rollouts

from equipoise.engine import local
from equipoise.engine import ray as cluster
from equipoise.engine.batch import count
from equipoise.engine.ray import guard
from equipoise.errors import ArgumentError, UnknownName
from equipoise.keys import Key
from equipoise.types import Decoder

DEADLINE_S = 300.0
pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_model("llama").save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[Any, Any]]:
    """The local engine, and one learner with one sampler."""
    local.deterministic(1)
    engine = cluster.load(str(folder), threads=1, heads=["value"], deadline_s=DEADLINE_S)
    yield local.load(str(folder), heads=["value"]), engine
    engine.close()


def said(groups: Any) -> Any:
    return [(r.ids.tolist(), r.logprobs.tolist(), r.key, r.version, r.origin) for g in groups for r in g.responses]


def test_one_learner_and_one_sampler_are_the_local_run_bit_by_bit(pair: tuple[Any, Any], tmp_path: Path) -> None:
    """Samples, updates, named policies, spending, checkpoints either way, the exported folder."""
    here, there = pair
    for engine in pair:
        engine.combine("start", {"current": 1.0})
    for k in range(2):
        mine, theirs = (rollouts(e, prompts=5, samples=4, tokens=12, seed=k) for e in pair)
        assert said(mine) == said(theirs)
        found = [e.backward(mine, policy_gradient(), count(mine)) for e in pair]
        assert found[0][0] == found[1][0]
        assert here.step(0.01) == there.step(0.01)
    assert there.published.times > 0 and here.spent() == there.spent()
    asked = [e.encode(mine[0].prompt) for e in pair]
    keys = [[mine_key] for mine_key in (cluster_key(), cluster_key())]
    drawn = [e.sample([p], 3, Decoder(8), k, "start") for e, p, k in zip(pair, asked, keys, strict=True)]
    assert said(drawn[0]) == said(drawn[1])
    here.save(tmp_path / "local")
    there.save(tmp_path / "ray")
    here.load(tmp_path / "ray")
    there.load(tmp_path / "local")
    after = [rollouts(e, prompts=2, samples=2, tokens=6, seed=9) for e in pair]
    assert said(after[0]) == said(after[1])
    for engine in pair:
        engine.backward(after[0], policy_gradient(), count(after[0]))
    assert here.step(0.01) == there.step(0.01)
    there.export(tmp_path / "model")
    opened = local.load(str(tmp_path / "model"))
    again = [e.outputs(after[0], ["logp"])[0]["logp"][0].tolist() for e in (here, opened)]
    assert again[0] == again[1]


def cluster_key() -> Key:
    return Key((5, "start"))


def test_a_snapshot_samples_in_another_thread_as_if_nothing_were_learned(pair: tuple[Any, Any]) -> None:
    """Also of a policy that changes, twice, and beside the engine's own sampling; its spending is its own."""
    here, there = pair
    for engine in pair:
        engine.combine("start", {"current": 1.0})
    groups = rollouts(here, prompts=3, samples=4, tokens=12)
    asked, keys = [g.prompt for g in groups], [Key((7, k)) for k in range(3)]

    def draw(engine: Any) -> list[Any]:
        return [said(engine.sample(asked, 4, Decoder(12), keys, policy)) for policy in ("current", "start")]

    def learn(engine: Any) -> None:
        engine.backward(groups, policy_gradient(), count(groups))
        engine.step(0.05)
        engine.combine("start", {"start": 0.5, "current": 0.5})

    wanted = []
    for _ in range(3):
        before = here.spent()
        wanted.append((draw(here), here.spent() - before))
        learn(here)
    wanted.append((draw(here), None))
    there.sample(asked[:1], 1, Decoder(1), keys[:1], "start")  # from now on a snapshot has it
    views, spent = [], there.spent()
    with ThreadPoolExecutor(1) as thread:
        drawn = []
        for _ in range(3):
            views.append(there.snapshot())
            drawn.append(thread.submit(draw, views[-1]))
            learn(there)
        assert draw(there) == wanted[3][0]
        assert [d.result(DEADLINE_S) for d in drawn] == [w for w, _ in wanted[:3]]
    assert [view.spent() for view in views] == [cost for _, cost in wanted[:3]]
    assert (there.spent() - spent).generated_tokens == sum(len(r[0]) for d in wanted[3][0] for r in d)
    with pytest.raises(UnknownName, match="policy of this snapshot"):
        views[0].sample(asked, 1, Decoder(1), keys, "nobody")


def test_an_environment_answers_from_the_drivers_process(pair: tuple[Any, Any]) -> None:
    """What replies may hold what no other process could have: here an open file and a list that it fills."""
    here = pair[0]
    with open(os.devnull) as file:
        heard: dict[str, list[str]] = {}
        found = []
        for engine in pair:
            texts = heard.setdefault(type(engine).__name__, [])

            def reply(prompt: Any, response: Any, texts: list[str] = texts, engine: Any = engine) -> Any:
                assert not file.closed
                texts.append(response.text)
                return engine.encode_turn("more") if len(texts) < 4 else None

            prompt = engine.encode(rollouts(here, prompts=1, samples=1)[0].prompt)
            found.append(
                engine.sample([prompt], 2, Decoder(30, stop=tuple("abcdefghijklm")), [cluster_key()], reply=reply)
            )
    assert said(found[0]) == said(found[1])
    assert heard["LocalEngine"] == heard["RayEngine"] and heard["RayEngine"]


def test_errors_come_back_as_what_they_are(pair: tuple[Any, Any]) -> None:
    _, there = pair
    groups = rollouts(there, prompts=1, samples=2)
    with pytest.raises(UnknownName, match="output"):
        there.outputs(groups, ["entropi"])
    with pytest.raises(UnknownName, match="policy"):
        there.sample([groups[0].prompt], 1, Decoder(2), [cluster_key()], "nobody")
    with pytest.raises(ArgumentError, match="connected to Ray already"):
        cluster.load("tiny", address="auto")
    with pytest.raises(ArgumentError, match="processors"):
        cluster.load("tiny", learners=1000)


def test_the_guard_ends_what_carries_its_mark_or_is_rays_and_writes_there(tmp_path: Path) -> None:
    """A title may be written over the mark; a file that another program has open makes it none of the cluster's."""
    marked = {**os.environ, guard.MARK: str(tmp_path)}
    with (tmp_path / "log").open("w") as log:

        def sleeper(title: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
            return subprocess.Popen([title, "100"], executable="/bin/sleep", stdout=log, env=environment)

        carrier, titled, reader = sleeper("sleep", marked), sleeper("ray::Agent", {}), sleeper("tail", {})
    try:
        guard.end(str(tmp_path))
        assert [carrier.wait(10), titled.wait(10), reader.poll()] == [-9, -9, None]
        assert not tmp_path.exists()
    finally:
        for process in (carrier, titled, reader):
            process.kill()
