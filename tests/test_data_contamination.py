"""Contamination: planted evaluation images and questions are found in every disguise, removed, and nothing else is."""
import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from core.errors import UserError
from data_tools import contamination, fingerprints
from data_tools.check import check
from data_tools.dataset import Sample, building

SOURCE = [{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}]


def picture(seed):
    """A drawing of a few shapes: smooth areas and edges, as photographs have."""
    chance = random.Random(seed)
    image = Image.new("RGB", (200, 150), tuple(chance.choices(range(256), k=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        x, y = chance.randint(0, 160), chance.randint(0, 120)
        shape = chance.choice([draw.ellipse, draw.rectangle])
        shape((x, y, x + chance.randint(20, 90), y + chance.randint(20, 80)), tuple(chance.choices(range(256), k=3)))
    return image


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def question(seed):
    chance = random.Random(seed)
    words = ["river", "mountain", "dog", "garden", "old", "house", "between", "several", "people", "near", "bridge",
             "train", "window", "morning", "colour"]
    return "How many " + " ".join(chance.choice(words) for _ in range(14)) + f" number {seed} are there?"


def training(identity, text, image=None):
    turns = [{"role": "user", "content": text + ("\n<image>" if image else "")},
             {"role": "assistant", "content": "Two."}]
    return Sample({"id": identity, "source": "t", "license": "CC0", "turns": {"en": turns}, "meta": {}}, image, "png")


def item(identity, text, image=None):
    prompt = text + ("\n<image>" if image else "")
    return Sample({"id": identity, "source": "t", "license": "CC0", "task": "t", "kind": "generate", "answer": -1,
                   "prompt": {"en": prompt}, "options": {}, "references": {"en": ["two"]}, "meta": {}}, image, "png")


DISGUISES = {
    "exact": lambda image: encoded(image), "jpeg": lambda image: encoded(image.convert("RGB"), "PNG"),
    "small": lambda image: encoded(image.resize((90, 68))), "mirror": lambda image: encoded(image.transpose(0)),
    "crop": lambda image: encoded(image.crop((12, 10, 190, 140))),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    root = tmp_path_factory.mktemp("planted")
    with building(root / "train", "train", ["en"]) as data:
        data.subset("image", "image", [
            *(training(f"image/{kind}", "What?", change(picture(number))) for number, (kind, change) in enumerate(
                DISGUISES.items())),
            *(training(f"clean/{i}", "What?", encoded(picture(1000 + i))) for i in range(40))])
        words = question(2).split()
        words[5] = "somewhere"
        data.subset("text", "text", [
            training("text/copy", question(0)), training("text/inside", f"Please answer: {question(1)} Be brief."),
            training("text/reworded", " ".join(words)), *(training(f"clean text/{i}", question(500 + i))
                                                          for i in range(200))])
        data.finish(SOURCE)
    with building(root / "eval", "eval", ["en"]) as data:
        data.subset("test", "evaluation", [*(item(f"e/{i}", question(i), encoded(picture(i))) for i in range(20))])
        data.finish(SOURCE)
    return root


def test_all_disguises_are_found_and_nothing_else(planted):
    matches = contamination.find(planted / "train", [planted / "eval"])
    assert {m["train"] for m in matches} == {*(f"image/{kind}" for kind in DISGUISES), "text/copy", "text/inside",
                                             "text/reworded"}
    assert {(m["train"], m["item"]) for m in matches if m["kind"] == "image"} == {
        (f"image/{kind}", f"e/{i}") for i, kind in enumerate(DISGUISES)}
    assert all(0.7 < m["score"] <= 1 for m in matches)


def test_what_is_found_can_be_removed(planted, tmp_path):
    matches = contamination.find(planted / "train", [planted / "eval"])
    manifest = contamination.remove(planted / "train", tmp_path / "clean", matches)
    assert manifest["removed"] == {"image": 5, "text": 3} and check(tmp_path / "clean") == []
    assert manifest["subsets"]["image"]["samples"] == 40 and manifest["subsets"]["text"]["samples"] == 200
    assert contamination.find(tmp_path / "clean", [planted / "eval"]) == []


def test_a_looser_threshold_accuses_more(planted):
    strict = contamination.find(planted / "train", [planted / "eval"], contamination.Options(images=False))
    loose = contamination.find(planted / "train", [planted / "eval"], contamination.Options(images=False, share=0.1))
    assert len(loose) >= len(strict) == 3


def test_one_side_alone_misses_no_crop_of_an_item(planted):
    found = contamination.find(planted / "train", [planted / "eval"],
                               contamination.Options(text=False, both_sides=False))
    assert "image/crop" in {m["train"] for m in found}


def test_nothing_to_compare_is_said(planted):
    with pytest.raises(UserError, match="no evaluation items"):
        contamination.find(planted / "train", [])
    with pytest.raises(UserError, match="no training samples"):
        contamination.find(planted / "eval", [planted / "eval"])


def test_views_and_correlation():
    image = picture(1)
    boxes = list(fingerprints.views())
    assert len(boxes) == 29 and fingerprints.view(image, boxes[0]).size == image.size
    assert contamination.correlation(image, image.resize((50, 40))) > 0.97
    assert contamination.correlation(image, picture(2)) < 0.9
    blank = Image.fromarray(np.full((30, 30, 3), 200, np.uint8))
    assert contamination.correlation(blank, blank) == 1.0 and contamination.correlation(blank, image) == 0.0
