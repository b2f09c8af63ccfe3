"""Saved, loaded, exported: nothing is lost, nothing foreign is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import gradients, make_engine, make_tokenizer, policy_gradient, rollouts

from equipoise.engine.batch import count
from equipoise.engine.local import load
from equipoise.errors import RecordError


def train(engine: Any, start: int, steps: int) -> list[float]:
    norms = []
    for seed in range(start, start + steps):
        groups = rollouts(engine, prompts=3, samples=3, tokens=8, seed=seed)
        engine.backward(groups, policy_gradient(), count(groups))
        norms.append(engine.step(1e-2)["grad_norm"])
    return norms


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}, {"heads": {"value": 1}}, {"dtype": "bfloat16"}])
def test_a_resumed_engine_goes_on_bit_by_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    first = make_engine(keep=["start"], **settings)
    train(first, 0, 2)
    first.save(tmp_path)
    norms = train(first, 2, 2)
    second = make_engine(seed=3, **settings)  # other weights, which loading replaces
    if "lora_rank" in settings:
        second = make_engine(seed=0, **settings)
    second.load(tmp_path)
    assert second.steps == 2
    assert train(second, 2, 2) == norms
    assert all(torch.equal(p, second.trained[k]) for k, p in first.trained.items())
    assert all(torch.equal(v, second._policies["start"][k]) for k, v in first._policies["start"].items())


def test_only_safetensors_and_json_are_written(tmp_path: Path) -> None:
    engine = make_engine(keep=["start"])
    train(engine, 0, 1)
    engine.save(tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json"}


def damage_truncate(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(folder: Path) -> None:
    path = folder / "optimiser.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def damage_missing(folder: Path) -> None:
    (folder / "policy-0.safetensors").unlink()


def damage_header(folder: Path) -> None:
    (folder / "engine.json").write_text("{")


def damage_format(folder: Path) -> None:
    header = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps(header | {"format": 99}))


DAMAGES = [damage_truncate, damage_flip, damage_missing, damage_header, damage_format]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_changes_nothing(damage: Any, tmp_path: Path) -> None:
    engine = make_engine(keep=["start"])
    train(engine, 0, 1)
    engine.save(tmp_path)
    train(engine, 1, 1)
    before = {k: p.detach().clone() for k, p in engine.trained.items()}
    damage(tmp_path)
    with pytest.raises(RecordError):
        engine.load(tmp_path)
    assert engine.steps == 2 and all(torch.equal(before[k], p) for k, p in engine.trained.items())


@pytest.mark.parametrize("other", [{"kind": "gpt2"}, {"lora_rank": 2}, {"dtype": "float64"}, {"heads": {"value": 1}}])
def test_the_state_of_another_model_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    make_engine().save(tmp_path)
    with pytest.raises(RecordError, match="another model"):
        make_engine(**other).load(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("lora_rank", [None, 2])
def test_an_exported_folder_opens_with_transformers_and_says_the_same(
    kind: str, lora_rank: int | None, tmp_path: Path
) -> None:
    import transformers

    engine = make_engine(kind, lora_rank=lora_rank)
    groups = rollouts(engine)
    train(engine, 0, 2)
    before = {k: p.detach().clone() for k, p in engine.trained.items()}
    engine.export(tmp_path / "model")
    assert all(torch.equal(before[k], p) for k, p in engine.trained.items())
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template == engine.tokenizer.chat_template
    for group, note in zip(groups, engine.outputs(groups, ["logp"]), strict=True):
        response, start = group.responses[0], len(group.prompt.ids)
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([[*group.prompt.ids, *response.ids]])).logits[0, start - 1 : -1]
        logp = torch.log_softmax(logits, -1)[torch.arange(len(response.ids)), torch.tensor(response.ids)]
        np.testing.assert_allclose(logp.numpy(), note["logp"][0], atol=2e-5)
    again = load(str(tmp_path))  # a run directory: its model/
    assert again.info.parameters == sum(p.numel() for p in plain.parameters())


def test_adapters_alone_can_be_exported(tmp_path: Path) -> None:
    engine = make_engine(lora_rank=2)
    engine.export(tmp_path, merge=False)
    assert (tmp_path / "adapter_model.safetensors").is_file() and not (tmp_path / "model.safetensors").exists()


def test_lora_trains_adapters_only_and_starts_as_the_base() -> None:
    base, adapted = make_engine(), make_engine(lora_rank=2, keep=["start"])
    groups = rollouts(base)
    for a, b in zip(base.outputs(groups, ["logp"]), adapted.outputs(groups, ["logp"]), strict=True):
        np.testing.assert_allclose(a["logp"][0], b["logp"][0], atol=1e-6)
    assert all("lora_" in name for name in adapted.trained)
    assert adapted.info.trainable < adapted.info.parameters / 5
    frozen = {k: p.detach().clone() for k, p in adapted.network.model.named_parameters() if not p.requires_grad}
    train(adapted, 0, 2)
    assert all(torch.equal(p, adapted.network.model.get_parameter(k)) for k, p in frozen.items())
    moved = adapted.outputs(groups, ["logp"])[0]["logp"][0]
    start = adapted.outputs(groups, ["logp"], "start")[0]["logp"][0]
    assert np.abs(moved - start).max() > 1e-3
    np.testing.assert_allclose(start, base.outputs(groups, ["logp"])[0]["logp"][0], atol=1e-6)


def test_lora_learns_in_every_layout() -> None:
    engine = make_engine(lora_rank=2)
    groups = rollouts(engine)
    gradient, metrics, _ = gradients(engine, groups, policy_gradient())
    assert float(gradient.norm()) > 0 and metrics["mismatch_max"][0] < 1e-4


def test_half_precision_products_keep_single_precision_weights() -> None:
    engine = make_engine(dtype="bfloat16", tokenizer=make_tokenizer())
    groups = rollouts(engine)
    gradient, metrics, _ = gradients(engine, groups, policy_gradient())
    assert engine.info.dtype == "bfloat16"
    assert {p.dtype for p in engine.trained.values()} == {torch.float32}
    assert float(gradient.norm()) > 0
    assert 1e-5 < metrics["mismatch"][0] / metrics["mismatch"][1] < 0.1


@pytest.mark.parametrize("rank", [None, 2])
def test_neither_adapters_nor_an_export_chatter(
    rank: int | None, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """A user's terminal shows what Equipoise says, not what the libraries below it say to each other."""
    engine = make_engine(lora_rank=rank)
    engine.export(tmp_path / "model")
    said = capfd.readouterr()
    assert not said.out and not said.err
    assert not [str(w.message) for w in recwarn if issubclass(w.category, FutureWarning)]
