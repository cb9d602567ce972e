"""An engine that cannot be loaded says in one line what it lacks."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOAD = """
import sys
sys.modules["sentencepiece"] = None     # as where it is not installed
from core.config import Engine, TranslateRuntime
from core.errors import UserError
from data_tools import engines
try:
    engines.load(Engine(kind="marian", model=sys.argv[1]), TranslateRuntime(device="cpu"), "en", "eu")
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("kind, says", [("MarianTokenizer", "needs sentencepiece: `pip install begira[translate]`"),
                                        ("PreTrainedTokenizerFast", "")])
def test_a_sentencepiece_vocabulary_needs_the_extra(tmp_path, kind, says):
    """The layout of HiTZ/mt-hitz-en-eu; the control is a tokenizer without, where another fault is not renamed."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian", "architectures": ["MarianMTModel"]}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (tmp_path / "vocab.json").write_text(json.dumps({"</s>": 0, "<unk>": 1, "<pad>": 2}))
    for name in ("source.spm", "target.spm"):
        (tmp_path / name).touch()
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert says in done.stdout and done.stdout.count("\n") == bool(says), done
    assert bool(done.returncode) != bool(says)
