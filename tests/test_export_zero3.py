"""From ZeRO-3 on two ranks, with a frozen tower and the linear connector, to a plain transformers folder: every trained
tensor arrives, and the exported model gives the live model's losses bit for bit."""
import pytest
import torch
from ranks import run_ranks
from small import backbone_folder, inputs, packed, vision_folder

from core import parts
from core.assemble import assemble
from core.config import LearningRate, Model, Train
from core.connector import standardise
from core.distributed import joined
from core.engine import Engine
from core.forward import PackedModel
from core.model import load_connector, load_product, save_product
from core.train import freeze

OPTIONS = Model(vision_layer=1, vision_select="full")


def live(root, tied, trained, stage):
    """One step under ZeRO, then the losses of the live model; the first rank leaves the product."""
    sources = {"vision": parts.Source(root / "encoder" / "e" / "model", {"run": "encoder/e"}),
               "backbone": parts.Source(root / "backbone" / tied / "model", {"run": f"backbone/{tied}"})}
    with joined() as world:
        built = assemble(sources["vision"].folder, sources["backbone"].folder, OPTIONS, seed=1)
        standardise(built.net, torch.linspace(-1, 1, 32), torch.linspace(0.5, 2, 32), unfold=False)
        freeze(built, trained)
        settings = Train(trained=trained, global_batch=2, lr=LearningRate(vision=1e-5), dtype="float32")
        engine = Engine(PackedModel(built.net).train(), settings, world, stage, 1)
        batch = packed(built, [2], seed=world.rank)
        loss, _ = engine.forward(*inputs(batch))
        engine.backward(loss, 10.0)
        engine.norms()
        engine.update(dict.fromkeys(engine.parts, 1e-2), 0.0)
        with torch.no_grad():
            _, after = engine.forward(*inputs(packed(built, [1], seed=9)))
        state = {name.removeprefix("net."): tensor for name, tensor in engine.state().items()}
        if world.first:
            save_product(root / "finetune" / "f" / "model", built, state, OPTIONS, sources)
        world.barrier()
        engine.destroy()
    return after


@pytest.mark.parametrize(("tied", "trained", "stage"), [
    ("tied", ["connector", "backbone"], 3), ("untied", ["vision", "connector", "backbone"], 3),
    pytest.param("untied", ["connector"], 3, marks=pytest.mark.slow),
    pytest.param("tied", ["connector", "backbone"], 1, marks=pytest.mark.slow)])
def test_the_product_gives_the_losses_of_the_live_model(tmp_path, tied, trained, stage):
    vision_folder(tmp_path / "encoder" / "e" / "model", "levit")
    backbone_folder(tmp_path / "backbone" / tied / "model", tied == "tied")
    wanted = run_ranks(live, 2, tmp_path, tied, trained, stage, timeout=280)[0]
    product = load_product(tmp_path / "finetune" / "f", tmp_path)
    with torch.no_grad():
        _, found = PackedModel(product.net)(*inputs(packed(product, [1], seed=9)))
    assert torch.equal(found, wanted)
    untrained = assemble(tmp_path / "encoder" / "e" / "model", tmp_path / "backbone" / tied / "model", OPTIONS, seed=1)
    with torch.no_grad():
        _, before = PackedModel(untrained.net)(*inputs(packed(untrained, [1], seed=9)))
    assert (found - before).abs().max() > 1e-3
    assert load_connector(tmp_path / "finetune" / "f")[1] is not None
    entries = parts.read_manifest(tmp_path / "finetune" / "f" / "model")["parts"]
    assert {part for part, entry in entries.items() if "source" not in entry} == {*trained, "connector"}
