"""`begira ask`, the exported folder and the evaluation give one and the same answer."""
import io
import json
import subprocess
import sys

import pytest
from PIL import Image
from seeing import COLOURS, finetuned, picture

from core.ask import ask
from core.errors import UserError
from core.model import export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finetuned(tmp_path_factory.mktemp("study"))


def test_it_names_what_it_sees_in_both_languages(run, tmp_path):
    for name in COLOURS:
        (tmp_path / "image.png").write_bytes(picture(name))
        assert ask(run.path, tmp_path / "image.png", "What is this?") == name
        assert ask(run.path, tmp_path / "image.png", "Zer da hau?\n<image>") == COLOURS[name][0]


def test_the_exported_folder_answers_the_same_without_begira(run, tmp_path):
    out = export(run.path, tmp_path / "exported")
    Image.open(io.BytesIO(picture("red"))).resize((40, 30)).save(tmp_path / "image.png")
    code = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
net, processor = AutoModelForImageTextToText.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
talk = [{"role": "user", "content": [{"type": "text", "text": "Zer da hau?"}, {"type": "image"}]}]
text = processor.apply_chat_template(talk, add_generation_prompt=True)
inputs = processor(images=Image.open(sys.argv[2]), text=text, add_special_tokens=False, return_tensors="pt")
ids = net.generate(**inputs, max_new_tokens=20, do_sample=False)
answer = processor.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip()
assert not any(name.split(".")[0] in ("core", "torchvision") for name in sys.modules)
print(json.dumps(answer))
"""
    done = subprocess.run([sys.executable, "-c", code, str(out), str(tmp_path / "image.png")], cwd=tmp_path, check=True,
                          capture_output=True, text=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer == ask(run.path, tmp_path / "image.png", "Zer da hau?") == "gorri"


def test_an_export_that_fails_leaves_nothing_and_can_be_repeated(run, tmp_path, monkeypatch):
    from core import model

    load = model.load_run_model

    class Full:
        def save_pretrained(self, folder):
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "load_run_model", lambda *words: (load(*words)[0], Full()))
    with pytest.raises(UserError, match=r"no space left while writing .*exported"):
        export(run.path, tmp_path / "exported")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "exported").mkdir()
    assert (export(run.path, tmp_path / "exported") / "config.json").exists()
    (tmp_path / "file").touch()
    for taken in ("exported", "file"):
        with pytest.raises(UserError, match=f"{taken} is there and not an empty folder"):
            export(run.path, tmp_path / taken)


def test_a_question_that_cannot_be_asked_is_the_users_mistake(run, tmp_path):
    for question, says in ((" ", "the question is empty"), ("<image> <image>", "holds 2 <image>")):
        with pytest.raises(UserError, match=says):
            ask(run.path, tmp_path / "image.png", question)


def test_a_bad_image_is_the_users_mistake(run, tmp_path):
    with pytest.raises(UserError, match="no image"):
        ask(run.path, tmp_path / "none.png", "What is this?")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png cannot be read as an image \(no image of a known kind\)"):
        ask(run.path, tmp_path / "text.png", "What is this?")
