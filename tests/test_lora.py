"""Adapters in place of the backbone's weights: only they are trained and stored, and the product has them merged in."""
import sys

import pytest
import torch
import trainruns
from ranks import run_ranks
from small import backbone_folder, inputs, packed, vision_folder
from trainruns import finetune_run, site, weights

from core import lora
from core.assemble import assemble
from core.checkpoint import latest
from core.config import Model
from core.errors import UserError
from core.forward import PackedModel
from core.run import Run
from core.train import freeze


def test_the_merged_backbone_computes_what_the_adapted_one_does(tmp_path):
    folders = vision_folder(tmp_path / "clip"), backbone_folder(tmp_path / "lm")
    built, plain = assemble(*folders, Model()), assemble(*folders, Model())
    lora.add(built.net.model.language_model, 4, seed=1)
    freeze(built, ["connector", "backbone"])
    trained = [name for name, p in built.net.named_parameters() if p.requires_grad]
    assert trained and all(lora.is_adapter(name) or "projector.linear_1" in name for name in trained)
    batch = packed(built, [1, 0])
    untouched = PackedModel(built.net)(*inputs(batch))[1]
    torch.testing.assert_close(untouched, PackedModel(plain.net)(*inputs(batch))[1], rtol=0, atol=1e-6)
    with torch.no_grad():
        for name, parameter in built.net.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    plain.net.load_state_dict(lora.merge(built.net.state_dict()))
    adapted = PackedModel(built.net)(*inputs(batch))[1]
    torch.testing.assert_close(adapted, PackedModel(plain.net)(*inputs(batch))[1], rtol=0, atol=1e-5)
    assert (adapted - untouched).abs().max() > 1e-3


def test_a_run_stores_adapters_alone_and_leaves_a_whole_backbone(tmp_path):
    root = site(tmp_path)
    path = finetune_run(root, "lora", train={"lora_rank": 2}, zero_stage=2, keep_checkpoints=9)
    run_ranks(trainruns.train, 2, path, timeout=120)
    file = next((latest(Run(path)).folder / "engine").glob("*model_states.pt"))
    saved = torch.load(file, weights_only=False)["module"]
    assert all("lora_" in name or "projector.linear_1" in name for name in saved)
    found = weights(path)
    folders = (root / "runs" / "study" / parent / "model" for parent in ("encoder/e", "backbone/b"))
    start = assemble(*folders, Model()).net.state_dict()
    assert found.keys() == start.keys()
    changed = {name for name in found if not torch.equal(found[name], start[name])}
    assert any("q_proj" in name for name in changed) and not any("embed_tokens" in name for name in changed)


def test_without_peft_it_says_what_to_install(tmp_path, monkeypatch):
    built = assemble(vision_folder(tmp_path / "clip"), backbone_folder(tmp_path / "lm"), Model())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"begira\[lora\]"):
        lora.add(built.net.model.language_model, 4, seed=1)
