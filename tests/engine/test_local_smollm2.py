"""The real model: opened from its package, exported, opened again by plain transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from equipoise.engine.local import load
from equipoise.keys import Key
from equipoise.types import Decoder, Prompt


@pytest.mark.slow
def test_smollm2_answers_and_survives_export(tmp_path: Path) -> None:
    import transformers

    engine = load("smollm2")
    info = engine.info
    assert (info.parameters, info.vocabulary, info.layers, info.width) == (134_515_008, 49_152, 30, 576)
    assert engine.network.packs and engine.network.splits and engine.network.memory in ("fused", "columns")
    assert engine.tokenizer.convert_ids_to_tokens(list(info.eos)) == ["<|im_end|>"]
    prompt = engine.encode(Prompt("p", messages=({"role": "user", "content": "What is the capital of France?"},)))
    text = engine.tokenizer.decode(list(prompt.ids or ()))
    assert text.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    response = engine.encode_reply(prompt, "Paris.", "demonstration")
    assert engine.tokenizer.decode(response.ids) == "Paris.<|im_end|>"
    group = engine.sample([prompt], 2, Decoder(12, temperature=0), [Key((0,))])[0]
    assert "Paris" in group.responses[0].text
    logp = engine.outputs([group], ["logp"])[0]["logp"][0]

    engine.export(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    ids = [*(prompt.ids or ()), *group.responses[0].ids.tolist()]
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor([ids])).logits[0, len(prompt.ids or ()) - 1 : -1]
    wanted = torch.log_softmax(logits, -1)[torch.arange(len(logp)), torch.tensor(group.responses[0].ids)]
    np.testing.assert_allclose(logp, wanted.numpy(), atol=1e-4)
