"""Stage `encoder`: a tower that learns, a folder that loads anywhere, a killed run that ends as an undisturbed one."""
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_check import bomb

from core import encoder as stage
from core import stop
from core.captions import caption, collect
from core.config import EncoderConfig, Source, resolve, structured
from core.encoder import augment, encoder, normalised
from core.errors import Stopped, UserError
from core.files import write_json, write_text
from core.run import Run
from data_tools.dataset import Sample, building

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "yellow": (230, 220, 30)}
SHAPES = {"square": (8, 8, 40, 40), "bar": (4, 20, 44, 28), "pole": (20, 4, 28, 44)}


def picture(colour, shape, shift):
    pixels = np.full((48, 48, 3), 255, np.uint8)
    left, top, right, bottom = SHAPES[shape]
    pixels[top + shift:bottom + shift, left - shift:right - shift] = COLOURS[colour]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def turns(text):
    return {"en": [{"role": "user", "content": "What is this?\n<image>"}, {"role": "assistant", "content": text}]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve concepts (colour and shape), three pictures of each to train on and one to test."""
    root = tmp_path_factory.mktemp("data")
    names, keywords, unseen = [], [], []
    for colour in COLOURS:
        for shape in SHAPES:
            for shift in range(4):
                common = {"id": f"{colour}/{shape}/{shift}", "source": "t", "license": "CC0", "meta": {}}
                image = picture(colour, shape, shift)
                if shift == 3:
                    unseen.append(Sample({**common, "turns": turns(f"{colour} {shape}")}, image))
                    continue
                names.append(Sample({**common, "turns": turns(f"{colour} {shape}")}, image))
                keywords.append(Sample({**common, "turns": turns(f"{colour}, {shape}, drawing")}, image))
    with building(root / "toy", "toy", ["en"]) as writer:
        writer.subset("name", "image", names)
        writer.subset("keywords", "image", keywords)
        writer.subset("unseen", "image", unseen)
        writer.finish([])
    return root


def make_run(folder, data, **changes):
    source = [{"data": "toy", "subset": name} for name in ("name", "keywords")]
    values = {"sources": source, "evaluate": [{"data": "toy", "subset": "unseen"}], "hidden": 32, "depth": 1,
              "epochs": 4, "batch": 12, "augment": 0.2, "runtime": {"data_root": str(data)}, **changes}
    import json
    write_json(folder / "spec.json", {"id": folder.name, "name": "encoder", "study": "t", "stage": "encoder",
                                      "function": "core.encoder:encoder", "axes": {}, "parents": {}})
    write_text(folder / "config.yaml", json.dumps(resolve("core.encoder:encoder", values)))
    return Run(folder)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def test_it_learns_and_reports_zero_shot_accuracy(data, tmp_path):
    result = encoder(make_run(tmp_path / "a", data, epochs=60, lr=1e-2))
    assert result["images"] == 36 and result["names"] == 12 and result["steps"] == 180
    metric, = result["metrics"]
    assert metric["n"] == 12 and metric["value"] >= 0.6


def test_a_stopped_run_ends_bit_for_bit_as_an_undisturbed_one(data, tmp_path, monkeypatch):
    encoder(make_run(tmp_path / "whole", data))
    run = make_run(tmp_path / "halves", data)
    monkeypatch.setattr(stage.Training, "train_step", stopping_after(7))
    with pytest.raises(Stopped):
        encoder(run)
    monkeypatch.undo()
    stop.clear()
    assert not (run.path / "model").exists()
    encoder(Run(run.path))
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make_run(tmp_path / "other", data, seed=1)
    encoder(other)
    assert any(not torch.equal(first[name], value) for name, value in weights(other.path).items())


def test_a_run_killed_before_its_result_was_written_does_not_train_again(data, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", data)
    first = encoder(run)
    monkeypatch.setattr(stage.Training, "train_step", None)
    again = encoder(Run(run.path))
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def stopping_after(steps):
    original = stage.Training.train_step

    def train_step(self, rows):
        if self.step == steps:
            stop.request("test")
        return original(self, rows)

    return train_step


def test_the_folder_loads_without_begira(data, tmp_path):
    encoder(make_run(tmp_path / "a", data, epochs=1))
    code = """
import sys, torch
from transformers import AutoImageProcessor, AutoModel
from PIL import Image
model = AutoModel.from_pretrained(sys.argv[1])
processor = AutoImageProcessor.from_pretrained(sys.argv[1], backend="pil")
pixels = processor(Image.new("RGB", (60, 50)), return_tensors="pt")["pixel_values"]
states = model(pixels, output_hidden_states=True).hidden_states
assert pixels.shape == (1, 3, 48, 48) and states[1].shape == (1, 4, model.config.hidden_size), states[1].shape
assert not any(name.split(".")[0] in ("core", "torchvision") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a" / "model")], check=True, cwd=tmp_path)


def test_the_saved_processor_makes_the_pixels_that_were_trained_on(data, tmp_path):
    from transformers import AutoImageProcessor

    encoder(make_run(tmp_path / "a", data, epochs=1))
    pairs = collect([Source("toy", "name")], data, 48, "en")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "a" / "model", backend="pil")
    image = Image.fromarray(pairs.pixels[0].permute(1, 2, 0).numpy())
    expected = normalised(pairs.pixels[:1], *pairs.channel_statistics())
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"], expected, atol=1e-5, rtol=0)


def test_keywords_of_the_same_image_become_phrases_of_its_name(data):
    pairs = collect([Source("toy", "name"), Source("toy", "keywords")], data, 48, "en")
    assert pairs.phrases[pairs.names.index("red bar")] == ["red bar", "red", "bar", "drawing"]
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(pairs.draw_phrases(generator), pairs.draw_phrases(generator))


def test_broken_samples_are_left_out_marked_or_not(tmp_path):
    sound = [(f"{colour} {shape}", picture(colour, shape, shift)) for colour in COLOURS for shape in SHAPES
             for shift in range(2)]
    samples = [Sample({"id": str(i), "source": "t", "license": "CC0", "meta": {}, "turns": turns(name)}, image)
               for i, (name, image) in enumerate([*sound, ("marked", bomb()), ("bomb", bomb())])]
    with building(tmp_path / "toy", "toy", ["en"]) as writer:
        writer.subset("name", "image", samples)
        writer.finish([])
    index = tmp_path / "toy" / "name" / "000000.idx.npz"
    with np.load(index) as arrays:
        columns = dict(arrays)
    columns["bad"][-2] = 1
    np.savez(index, **columns)
    found = collect([Source("toy", "name")], tmp_path, 48, "en")
    assert len(found.names) == 12 and not {"marked", "bomb"} & set(found.names)
    columns["bad"][-2] = 0
    np.savez(index, **columns)
    with pytest.raises(UserError, match="2 of 26 samples of toy/name are unreadable"):
        collect([Source("toy", "name")], tmp_path, 48, "en")


def test_no_text_in_the_language_is_the_users_mistake(data):
    with pytest.raises(UserError, match="0 have an image with a 'eu' text"):
        collect([Source("toy", "name")], data, 48, "eu")


def test_caption_of_an_evaluation_item_is_its_answer():
    item = {"task": "naming", "options": {"en": ["cat", "dog"]}, "answer": 1}
    assert caption(item, "en") == "dog"
    assert caption(item, "eu") is None


def test_augmentation_keeps_white_white_and_mirrors_at_strength_zero():
    mean, deviation, generator = torch.full((3,), 0.5), torch.full((3,), 0.5), torch.Generator().manual_seed(0)
    white = torch.full((8, 3, 48, 48), 255, dtype=torch.uint8)
    moved = augment(white, 1.0, mean, deviation, generator)
    assert (moved.flatten(2).std(2) < 1e-5).all()
    pixels = torch.randint(0, 256, (16, 3, 48, 48), dtype=torch.uint8, generator=generator)
    plain = normalised(pixels, mean, deviation)
    same = augment(pixels, 0.0, mean, deviation, generator)
    kinds = [(torch.allclose(a, b, atol=1e-3), torch.allclose(a, b.flip(2), atol=1e-3))
             for a, b in zip(same, plain, strict=True)]
    assert all(one != other for one, other in kinds)
    assert {one for one, _ in kinds} == {True, False}


def test_unknown_key_is_named():
    with pytest.raises(UserError, match="did you mean 'epochs'"):
        structured(EncoderConfig, {"epoch": 3})
