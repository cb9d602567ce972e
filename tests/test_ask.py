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


def test_a_bad_image_is_the_users_mistake(run, tmp_path):
    with pytest.raises(UserError, match="no image"):
        ask(run.path, tmp_path / "none.png", "What is this?")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="cannot be read as an image"):
        ask(run.path, tmp_path / "text.png", "What is this?")
