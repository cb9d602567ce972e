"""Real DeepSpeed training on 2 nodes x 2 ranks inside Slurm jobs, interrupted and requeued: bit for bit what the local
backend leaves undisturbed."""
import json
import subprocess
import sys

import pytest
import yaml

from tests.cluster.cluster import REPOSITORY
from tests.slurm.desk import STAGES

MAKE = """
import sys; sys.path.insert(0, "tests")
from pathlib import Path
import toydata, torch
from small import backbone_folder, vision_folder
root = Path(sys.argv[1])
toydata.toy(root / "data", images=120, texts=60)
vision_folder(root / "models" / "tiny" / "vision")
from transformers import LlamaConfig, LlamaForCausalLM
words = toydata.tokenizer()
torch.manual_seed(0)
LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True)
    ).save_pretrained(root / "models" / "tiny" / "backbone")
words.save_pretrained(root / "models" / "tiny" / "backbone")
"""
CONFIG = {
    "model": {"vision": "tiny/vision", "backbone": "tiny/backbone"},
    "mixture": {"target_ratio": 0.5, "samples": 120, "sources": [{"data": "toy", "subset": "image"}]},
    "pack": {"tokens": 120, "max_tokens": 100, "window": 2, "images": 8},
    "train": {"trained": ["connector", "backbone"], "global_batch": 4, "dtype": "float32",
              "lr": {"connector": 3e-3, "backbone": 3e-3}, "weight_decay": 0.1}}
CLOCK = ("tokens_per_second", "padded_tokens_per_second", "samples_per_second", "seconds_per_step", "data_wait",
         "memory_gib")


def losses(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows if "loss" in row]


def digest(path):
    """Of the trained weights, tensor by tensor."""
    import hashlib

    from safetensors.numpy import load_file
    files = sorted((path / "model").rglob("*.safetensors"))
    return [(name, hashlib.sha256(tensor.tobytes()).hexdigest())
            for file in files for name, tensor in sorted(load_file(file).items())]


def tensorboard_steps(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = []
    for file in sorted((path / "tb").glob("events*")):
        events = EventAccumulator(str(file)).Reload()
        steps += [event.step for event in events.Scalars("loss")] if "loss" in events.Tags()["scalars"] else []
    return steps


@pytest.mark.parametrize("interrupts", ["5", pytest.param("2-4-5-p7-t9", marks=pytest.mark.slow)])
def test_interrupted_training_equals_undisturbed(desk, interrupts):
    subprocess.run([sys.executable, "-c", MAKE, str(desk.folder)], cwd=REPOSITORY, check=True, timeout=120)
    grids = []
    for name, function in (("undisturbed", "core.train:finetune"), (f"disturbed-{interrupts}", f"{STAGES}:train")):
        body = {"name": name, "stages": {"finetune": {"function": function, "config": CONFIG, "runtime": {
            "nodes": 2, "ranks_per_node": 2, "save_every": 4, "log_every": 1, "workers": 2}}}}
        grids.append(desk.folder / f"{name}.yaml")
        grids[-1].write_text(yaml.safe_dump(body))
    local = desk.begira("submit", str(grids[0]), "--cluster", "local")
    assert local.returncode == 0, local.stderr
    if "t" in interrupts:
        desk.profiled(minutes=2, signal_seconds=20)
    desk.submit(grids[1])
    quiet, disturbed = (desk.path(grid, "finetune") for grid in grids)
    assert desk.wait(grids[1], seconds=480) == {"finetune": "done"}, desk.describe(grids[1])
    stops = interrupts.count("-") + 1
    attempts = desk.attempts(disturbed)
    assert [a.outcome for a in attempts] == ["stopped"] * stops + ["done"], [(a.outcome, a.cause) for a in attempts]
    desk.until(lambda: desk.rows(desk.job(disturbed)) == ["REQUEUED"] * stops + ["COMPLETED"], 20,
               lambda: str(desk.rows(desk.job(disturbed))), every=1)
    assert losses(disturbed) == losses(quiet)
    assert digest(disturbed) == digest(quiet)
    steps = [row["step"] for row in losses(disturbed)]
    assert steps == sorted(set(steps)) and tensorboard_steps(disturbed) == steps
