"""Translation as runs: every text once, whatever is killed; protected spans unchanged; engines with their failures."""
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from core import chat
from core.config import Engine, TranslateConfig, TranslateRuntime, structured
from core.errors import Stopped, UserError
from core.files import write_json, write_text
from core.run import Run
from core.shards import DataSet
from data_tools import engines, segments, translate, translated
from data_tools.check import check
from data_tools.dataset import Sample, building
from data_tools.quality import Gates, protected

WORDS = {"the": "", "dog": "txakurra", "house": "etxea", "red": "gorria", "big": "handia", "old": "zaharra",
         "sees": "ikusten du", "has": "dauka", "and": "eta", "which": "zein", "is": "da", "here": "hemen",
         "tree": "zuhaitza", "river": "ibaia", "near": "ondoan", "a": "bat", "table": "mahaia", "what": "zer",
         "colour": "kolorea", "it": "hori", "blue": "urdina", "green": "berdea", "see": "ikusi", "for": "gehiago"}
CHUNKS = 4
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f"
                    "0005fe02fedccc59e70000000049454e44ae426082")
ROOT = Path(__file__).resolve().parent.parent


def sentence(number):
    chance = random.Random(number)
    nouns = chance.choices(["dog", "house", "tree", "river", "table"], k=3)
    return (f"The {chance.choice(['red', 'big', 'old'])} {nouns[0]} number {number} sees the {nouns[1]} near the "
            f"{nouns[2]}.")


def write_data(root, rows):
    with building(root / "t", "t", ["en"]) as data:
        data.subset("train", "image", (Sample({
            "id": f"t/{i}", "source": "t", "license": "CC0", "meta": {}, "turns": {"en": [
                {"role": "user", "content": "What is here?\n<image>"},
                {"role": "assistant", "content": f"{sentence(i)} See https://a.eus/{i} for {{name}}."}]}},
            PNG) for i in range(rows)))
        data.subset("text", "text", (Sample({
            "id": f"x/{i}", "source": "t", "license": "CC0", "meta": {},
            "turns": {"en": [{"role": "assistant", "content": sentence(i % 50)}]}}) for i in range(rows // 10)))
        data.finish([{"name": "t", "version": "1", "licence": "CC0", "origin": "test", "sha256": ""}])


def make_run(folder, config, number=0):
    path = folder / f"chunk{number}"
    path.mkdir(parents=True)
    write_json(path / "spec.json", {"id": path.name, "name": path.name, "study": "t", "stage": "translate", "axes": {},
                                    "function": "data_tools.translate:translate", "parents": {}})
    write_json(path / "config.yaml", config)  # JSON is YAML
    return Run(path)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "words.json").write_text(json.dumps(WORDS))
    return tmp_path


def settings(root, chunk=0, chunks=1, **more):
    return {"data": "t", "target_language": "eu", "chunk": chunk, "chunks": chunks, "block": 16,
            "engines": [{"kind": "dictionary", "model": str(root / "words.json")}],
            "gates": {"length": [[0, 0.1, 9.0]], "copied": 1.0, "language_words": 999},
            "runtime": {"data_root": str(root)}, **more}


def finish(run):
    result = translate.translate(run)
    write_json(run.path / "result.json", result)
    write_text(run.path / "DONE", "")
    return result


def in_another_process(run):
    code = ("import sys, time; from core.run import Run; from data_tools import translate, engines\n"
            "slow = engines.Dictionary.translate\n"
            "engines.Dictionary.translate = lambda s, t: (time.sleep(0.05), slow(s, t))[1]\n"
            f"translate.translate(Run({str(run.path)!r}))")
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_killed_chunks_resume_and_every_text_is_there_once(root):
    write_data(root, 400)
    runs = [make_run(root / "runs", settings(root, i, CHUNKS), i) for i in range(CHUNKS)]
    chance = random.Random(3)
    for run in runs[:3]:  # three tasks are killed, one of them twice
        for _ in range(1 + (run is runs[0])):
            process = in_another_process(run)
            deadline = time.monotonic() + 60
            want = len(list(run.path.glob("translations/0*.jsonl"))) + chance.randint(1, 3)
            while len(list(run.path.glob("translations/0*.jsonl"))) < want and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    results = [finish(run) for run in runs]
    assert sum(r["texts"] for r in results) == 400 + 40 + 1 == sum(r["passed"] for r in results)
    manifest = translated.merge([run.path for run in runs], root / "t-eu")
    assert manifest["translation"]["translated"] == 440 and check(root / "t-eu") == []
    before, after = DataSet(root / "t"), DataSet(root / "t-eu")
    for name in ("train", "text"):
        one, other = before.subset(name), after.subset(name)
        assert len(one) == len(other)
        for i in range(len(one)):
            old, new = one.read(i), other.read(i)
            assert old[0]["id"] == new[0]["id"] and old[0]["turns"]["en"] == new[0]["turns"]["en"] and old[1] == new[1]
            for a, b in zip(new[0]["turns"]["en"], new[0]["turns"]["eu"], strict=True):
                assert sorted(protected(a["content"])) == sorted(protected(b["content"]))
                assert re.findall(r"\d+", a["content"]) == re.findall(r"\d+", b["content"])
    stamps = {p: p.stat().st_mtime_ns for run in runs for p in run.path.glob("translations/0*.jsonl")}
    assert [translate.translate(run)["passed"] for run in runs] == [r["passed"] for r in results]
    assert stamps == {p: p.stat().st_mtime_ns for p in stamps}


def test_undisturbed_chunks_give_the_same_bytes_however_many(root):
    write_data(root, 120)
    outcomes = []
    for chunks in (1, 3):
        runs = [make_run(root / f"runs{chunks}", settings(root, i, chunks), i) for i in range(chunks)]
        for run in runs:
            finish(run)
        translated.merge([run.path for run in runs], root / f"out{chunks}")
        outcomes.append([p.read_bytes() for p in sorted((root / f"out{chunks}").rglob("*.tar"))])
    assert outcomes[0] == outcomes[1]


def test_a_stop_is_between_two_blocks(root, monkeypatch):
    write_data(root, 100)
    run = make_run(root / "runs", settings(root))
    asked = iter([None, None, "time limit"])
    monkeypatch.setattr(Run, "stop_requested", lambda self: next(asked))
    with pytest.raises(Stopped):
        translate.translate(run)
    assert len(list(run.path.glob("translations/0*.jsonl"))) == 2
    monkeypatch.undo()
    assert translate.translate(run)["texts"] == 111


def test_merge_refuses_what_does_not_fit(root):
    write_data(root, 60)
    runs = [make_run(root / "runs", settings(root, i, 3), i) for i in range(3)]
    with pytest.raises(UserError, match="not done"):
        translated.merge([run.path for run in runs], root / "out")
    for run in runs:
        finish(run)
    with pytest.raises(UserError, match=r"missing \[1\]"):
        translated.merge([runs[0].path, runs[2].path], root / "out")
    with pytest.raises(UserError, match=r"twice \[2\]"):
        translated.merge([run.path for run in (*runs, runs[2])], root / "out")
    other = make_run(root / "other", settings(root, 0, 3, where="all"))
    finish(other)
    with pytest.raises(UserError, match="different things"):
        translated.merge([other.path, runs[1].path, runs[2].path], root / "out")
    assert not (root / "out").exists()


def test_another_data_set_under_the_same_name_is_noticed(root):
    write_data(root, 60)
    run = make_run(root / "runs", settings(root))
    translate.translate(run)
    write_data(root, 61)
    with pytest.raises(UserError, match="another list of texts"):
        translate.translate(run)
    block = next(run.path.glob("translations/0*.jsonl"))
    write_data(root, 60)
    block.write_text("".join(block.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match="does not hold the texts of its block"):
        translate.translate(run)


def test_rejected_texts_go_to_the_next_engine_and_are_kept_with_reasons(root):
    write_data(root, 30)
    (root / "bad.json").write_text(json.dumps({**WORDS, "number": "10 10"}))
    both = [{"kind": "dictionary", "model": str(root / name)} for name in ("bad.json", "words.json")]
    one, two = (make_run(root / str(n), settings(root, engines=both[:n])) for n in (1, 2))
    first, second = finish(one), finish(two)
    assert first["reasons"]["number"] == first["rejected"] > 20
    assert second["rejected"] == 0 and len(second["engines"]) == 2
    manifest = translated.merge([one.path], root / "out")
    assert manifest["translation"]["rejected"] == 33 and check(root / "out") == []
    lines = [json.loads(line) for line in (root / "out/rejected.jsonl").read_text().splitlines()]
    assert len(lines) == 33 and all("number" in line["reasons"] for line in lines)


def test_a_translation_that_does_not_come_back_is_rejected(root):
    """A second dictionary translates back; where the first one says something else, only the way back shows it."""
    write_data(root, 30)
    backwards = {basque: english for english, basque in WORDS.items() if basque}
    (root / "back.json").write_text(json.dumps(backwards))
    wrong = dict.fromkeys((*WORDS, "number"), "hegazkina")
    (root / "wrong.json").write_text(json.dumps(wrong))
    gates = {**settings(root)["gates"], "round_trip": 40.0}
    outcomes = {}
    for words in ("words.json", "wrong.json"):
        for back in ([], [{"kind": "dictionary", "model": str(root / "back.json")}]):
            engine = {"kind": "dictionary", "model": str(root / words)}
            config = settings(root, engines=[engine], back=back, gates=gates)
            outcomes[words, bool(back)] = finish(make_run(root / "runs" / words / str(bool(back)), config))
    assert [outcomes["words.json", back]["rejected"] for back in (False, True)] == [0, 0]
    assert "round trip" not in outcomes["wrong.json", False]["reasons"]
    assert outcomes["wrong.json", True]["reasons"]["round trip"] > 25


def test_apertium_translates_back():
    """Debian's apertium-eu-en, where it is installed."""
    if "eu-en" not in (subprocess.run(["apertium", "-l"], capture_output=True, text=True).stdout
                       if shutil.which("apertium") else ""):
        with pytest.raises(UserError, match="no pair eu-en is installed"):
            engines.load(Engine(kind="apertium", model="eu-en"), TranslateRuntime(), "eu", "en")
        pytest.skip("no apertium-eu-en on this machine")
    engine = engines.load(Engine(kind="apertium", model="eu-en"), TranslateRuntime(), "eu", "en")
    made = engine.translate(["Etxea handia da.", "Bi\nlerro", "Katua etxean dago"])
    assert len(made) == 3 and "house" in made[0].lower() and "\n" not in made[1] and "cat" in made[2].lower()
    gates = Gates("en", "eu")
    assert gates.check("The house is big.", "Etxea handia da.", made[0]) == []
    assert gates.check("Open the file menu and print.", "Etxea handia da eta polita.", made[0]) == ["round trip"]


# ---- pieces

@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("text", [
    "What is this?\n<image>", "<image> Look. Mr. Smith is here, e.g. at home. Go!", "Which?\nA. a dog\nB. a cat\n",
    "  Run `ls -l`; then {name}.\n\nSee https://a.eus/x?y=1 for more. $x^2$ is 4. ", "x" * 300 + " " + "y" * 50,
    "\n", "1 2 3"])
def test_cutting_loses_nothing(text, spans):
    for sentences in (True, False):
        pieces = segments.cut(text, spans, sentences, 100)
        assert "".join(p for _, p in pieces) == text
        assert "<image>" not in "".join(p for fixed, p in pieces if not fixed)
        if spans:
            assert not protected("".join(p for fixed, p in pieces if not fixed))
        upper = segments.join(pieces, {p: p.upper() for fixed, p in pieces if not fixed})
        assert upper.upper() == text.upper()


def test_sentences_are_told_from_abbreviations():
    assert [p for fixed, p in segments.cut("A dog, e.g. Rex. It runs! J. Smith? Yes.") if not fixed] == [
        "A dog, e.g. Rex.", "It runs!", "J. Smith?", "Yes."]


# ---- engines

class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        self.seen, self.first, self.broken = Counter(), Counter(), set()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """Every text fails in its own way at first: 429, 500, a time-out, broken JSON; then it is answered."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        self.server.seen[text] += 1
        number = re.search(r"\d+", text)
        kind = (429, 500, "slow", "garbage", 200)[int(number[0]) % 5] if number else 200
        if self.server.seen[text] > 1 and text not in self.server.broken:
            kind = 200
        if text in self.server.broken:
            kind = 503
        if kind == "slow":
            time.sleep(1.5)
        if kind in (429, 500, 503, 404):
            self.send_response(kind)
            self.send_header("Retry-After", "0")
            self.end_headers()
            return
        answer = {"choices": [{"message": {"content": " ".join(WORDS.get(w.lower(), w) for w in text.split(" "))},
                               "finish_reason": "length" if "endless" in text else "stop"}]}
        data = b"{no json" if kind == "garbage" else json.dumps(answer).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client gave up: that is the point

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def endpoint(server):
    runtime = TranslateRuntime(endpoint=f"http://127.0.0.1:{server.server_port}/v1", timeout=0.7, requests=8, tries=4)
    return engines.load(Engine(kind="llm", model="m"), runtime, "en", "eu")


def test_the_endpoint_is_asked_again_while_it_is_busy(server, monkeypatch):
    monkeypatch.setattr(chat, "pause", lambda attempt, reason: 0.01)
    wanted = [sentence(i) for i in range(40)]
    made = endpoint(server).translate(wanted)
    assert all(not isinstance(m, chat.Failure) for m in made)
    assert [re.findall(r"\d+", m) for m in made] == [re.findall(r"\d+", w) for w in wanted]
    assert sum(server.seen.values()) == 40 + 32  # four of five fail once


def test_one_text_that_never_comes_is_a_failure_of_its_own(server, monkeypatch):
    monkeypatch.setattr(chat, "pause", lambda attempt, reason: 0.01)
    server.broken.add("dog")
    made = endpoint(server).translate(["house", "dog", "an endless tree"])
    assert made[0] == "etxea" and isinstance(made[1], chat.Failure) and "503" in made[1]
    assert isinstance(made[2], chat.Failure) and "greatest length" in made[2]


def test_no_server_is_said_at_once_and_loses_nothing(root, server):
    write_data(root, 20)
    config = settings(root, engines=[{"kind": "llm", "model": "m"}])
    config["runtime"] |= {"endpoint": "http://127.0.0.1:9/v1", "tries": 2}
    with pytest.raises(UserError, match=r"does not answer.*start the server"):
        translate.translate(make_run(root / "runs", config))
    assert not list((root / "runs").rglob("0*.jsonl"))


def test_the_server_may_ask_for_a_pause():
    assert chat.pause(3, "HTTP 429 7") == 7.0
    assert 0.2 < chat.pause(1, "HTTP 500 ") < 1 < chat.pause(4, "x") < 7


def test_examples_of_the_prompts_pass_the_gates():
    for name in ("llm-1",):
        for target, examples in engines.load_prompt(name)["examples"].items():
            assert all(Gates("en", target).check(*example) == [] for example in examples)
    with pytest.raises(UserError, match="no prompt"):
        engines.load_prompt("llm-0")


@pytest.mark.slow
def test_marian_translates_in_order_whatever_the_batches(tmp_path):
    """A tiny Marian with random weights: greedy output depends on the text alone, not on its neighbours."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", *sorted({w for i in range(300) for w in re.findall(r"\w+|\.", sentence(i))})]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                            model_max_length=24).save_pretrained(tmp_path)
    model = MarianMTModel(MarianConfig(
        vocab_size=len(words), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        pad_token_id=0, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, eos_token_id=1,
        decoder_start_token_id=0, max_position_embeddings=24, forced_eos_token_id=None, init_std=2.0))
    model.final_logits_bias[0, 1] = 16.0  # so that some texts come to an end and some do not
    model.save_pretrained(tmp_path)
    wanted = [" ".join(sentence(i).split()[:2 + i % 9]) for i in range(20)]
    outcomes = []
    for batch in (1, 60):
        engine = engines.load(Engine(kind="marian", model=str(tmp_path), batch_tokens=batch),
                              TranslateRuntime(device="cpu"), "en", "eu")
        made = engine.translate(wanted)
        outcomes.append([(str(m), isinstance(m, chat.Failure)) for m in made])
    assert outcomes[0] == outcomes[1] and len(set(outcomes[0])) > 3
    with pytest.raises(UserError, match="no model in"):
        engines.load(Engine(kind="marian", model="/nothing"), TranslateRuntime(), "en", "eu")


def test_configuration_is_checked(root):
    write_data(root, 10)
    for change, expected in (({"chunk": 4, "chunks": 4}, "counted from 0"), ({"engines": []}, "no translation engine"),
                             ({"engines": [{"kind": "magic"}]}, "unknown translation engine"),
                             ({"subsets": ["trian"]}, "no subset 'trian'"), ({"where": "some"}, "choose one of"),
                             ({"engine": []}, "did you mean 'engines'")):
        with pytest.raises(UserError, match=expected):
            translate.translate(make_run(root / str(change), settings(root, **change)))
    assert structured(TranslateConfig, settings(root)).engines[0].kind == "dictionary"
