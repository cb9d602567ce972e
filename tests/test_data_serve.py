"""Translation by a real OpenAI-compatible server: `transformers serve` with a tiny model of random weights."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_data_translate import finish, make_run, sentence, settings

from core.errors import UserError
from data_tools.dataset import Sample, building
from data_tools.translate import identity

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch
    from toydata import tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, words = tmp_path_factory.mktemp("model"), tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                 num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8192,
                                 eos_token_id=words.eos_token_id)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model):
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers[serving] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1",
                                "--port", str(port), "--device", "cpu"], env={**os.environ, "HF_HUB_OFFLINE": "1"})
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "transformers serve did not start"
            time.sleep(0.3)
    yield process, f"http://127.0.0.1:{port}/v1"
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


def config(root, model, endpoint, **runtime):
    with building(root / "t", "t", ["en"]) as data:
        data.subset("text", "text", (Sample({"id": f"x/{i}", "source": "t", "license": "CC0", "meta": {}, "turns": {
            "en": [{"role": "assistant", "content": sentence(i)}]}}) for i in range(12)))
        data.finish([])
    made = settings(root, engines=[{"kind": "llm", "model": str(model)}])
    made["runtime"] |= {"endpoint": endpoint, "requests": 2, **runtime}
    return made


def lines(run):
    return [json.loads(line) for path in run.path.glob("translations/0*.jsonl")
            for line in path.read_text().splitlines()]


def test_every_text_gets_its_line_from_a_server_that_speaks_nonsense(server, model, tmp_path):
    run = make_run(tmp_path / "runs", config(tmp_path, model, server[1], timeout=100, tries=2))
    result = finish(run)
    assert result["texts"] == result["passed"] + result["rejected"] == 12
    assert [line["id"] for line in lines(run)] == [identity(sentence(i)) for i in range(12)]
    assert not [reason for reason in result["reasons"] if "HTTP" in reason or "no answer" in reason], result


def test_a_server_that_hangs_costs_its_texts_and_a_dead_one_the_run(server, model, tmp_path):
    process, endpoint = server
    process.send_signal(signal.SIGSTOP)
    try:
        run = make_run(tmp_path / "runs", config(tmp_path, model, endpoint, timeout=0.5, tries=2))
        assert finish(run)["rejected"] == 12
        assert all("no answer after 2 tries" in line["reasons"][0] for line in lines(run))
    finally:
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    run = make_run(tmp_path / "dead", config(tmp_path, model, endpoint, tries=2))
    with pytest.raises(UserError, match="does not answer"):
        finish(run)
    assert lines(run) == []
