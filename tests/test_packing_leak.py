"""Documents of one packed row do not see each other: each one's logits are those it has alone, and changing one changes
nothing in the others. Without our mask they leak (the negative control)."""
import itertools

import pytest
import torch
from small import backbone_folder, inputs, packed, vision_folder

from core import forward
from core.assemble import assemble
from core.config import Model
from core.forward import PackedModel


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return assemble(vision_folder(root / "clip"), backbone_folder(root / "lm"), Model(), seed=1)


def logits(built, batch):
    ids, positions, _, pixels = inputs(batch)
    with torch.no_grad():
        return built.net.lm_head(PackedModel(built.net).hidden(ids, positions, pixels))


def documents(batch):
    """(row, start, stop) of every document with more than one token."""
    found = []
    for row, positions in enumerate(batch.position_ids.tolist()):
        starts = [i for i, p in enumerate(positions) if p == 0] + [len(positions)]
        for start, stop in itertools.pairwise(starts):
            if stop - start > 1:
                found.append((row, start, stop))
    return found


def test_logits_equal_those_alone(built):
    batch = packed(built, [2, 1, 0], documents=(3, 4))
    together = logits(built, batch)
    image_id, used = built.net.config.image_token_id, 0
    found = documents(batch)
    assert len(found) >= 9
    for row, start, stop in found:
        ids = batch.input_ids[row:row + 1, start:stop]
        images = int((ids == image_id).sum()) // built.image_tokens
        with torch.no_grad():
            pixels = batch.pixels[used:used + images] if images else None
            alone = built.net(input_ids=ids, pixel_values=pixels).logits
        used += images
        torch.testing.assert_close(together[row:row + 1, start:stop], alone, rtol=0, atol=1e-5)


def change_first_document(batch):
    row, start, stop = documents(batch)[0]
    ids = batch.input_ids[row, start:stop]
    batch.input_ids[row, start:stop] = torch.where(ids < 80, 7, ids)
    return row, start, stop


def difference(built, seed=0):
    batch, other = packed(built, [2, 1], seed, documents=(3, 3)), packed(built, [2, 1], seed, documents=(3, 3))
    row, start, stop = change_first_document(other)
    change = (logits(built, batch) - logits(built, other)).abs().amax(-1)
    inside = change[row, start:stop].max().item()
    change[row, start:stop] = 0
    return inside, change.max().item()


def test_changing_one_document_changes_no_other(built):
    inside, outside = difference(built)
    assert inside > 1e-3 and outside == 0.0


def test_negative_control_a_plain_causal_mask_leaks(built, monkeypatch):
    plain = forward.document_mask

    def causal(positions, dtype):
        return plain(torch.arange(positions.shape[1])[None].expand_as(positions), dtype)

    monkeypatch.setattr(forward, "document_mask", causal)
    assert difference(built)[1] > 1e-4


def test_transformers_own_mask_path_agrees(built, monkeypatch):
    """Backbones with other than full attention get their masks from transformers; here both give the same."""
    batch = packed(built, [1, 0], documents=(2, 3))
    ours = logits(built, batch)
    monkeypatch.setattr(PackedModel, "own_mask", property(lambda self: False, lambda self, value: None), raising=False)
    torch.testing.assert_close(logits(built, batch), ours, rtol=0, atol=1e-5)
