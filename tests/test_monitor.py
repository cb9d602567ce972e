"""What a run tells: losses divided by what they sum over, no step twice after a resume, the card's arithmetic."""
import json
import time

import pytest

from core.card import Counts, card, flops_per_token, state_bytes
from core.monitor import Monitor, cut, peak_of
from core.run import Run


def feed(monitor, steps):
    for step in steps:
        losses = {"all": [3.0 * step, 2.0 + step], "eu": [step, 1.0 + step], "en": [2.0 * step, 1.0]}
        monitor.step(step, losses, {"lr": 0.1 * step}, {"tokens": 10.0, "padded": 12.0, "samples": 2.0}, 0.001)


def records(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_a_record_holds_means_over_tokens_of_all_steps_since_the_last(tmp_path):
    run = Run(tmp_path)
    monitor = Monitor(run, 10, log_every=4)
    feed(monitor, range(1, 11))
    monitor.close()
    found = records(run)
    assert [r["step"] for r in found] == [4, 8, 10]  # the last step always has one
    steps = range(5, 9)
    assert found[1]["loss"] == pytest.approx(sum(3 * s for s in steps) / sum(2 + s for s in steps))
    assert found[1]["loss/eu"] == pytest.approx(sum(steps) / sum(1 + s for s in steps))
    assert found[1]["padded_tokens_per_second"] == pytest.approx(1.2 * found[1]["tokens_per_second"])
    assert found[1]["data_wait"] > 0 and monitor.loss == found[-1]["loss"]
    assert json.loads((tmp_path / "heartbeat.json").read_text())["step"] == 10


def test_steps_that_were_skipped_have_no_loss_and_not_one_of_0(tmp_path):
    monitor = Monitor(Run(tmp_path), 2, log_every=1)
    feed(monitor, [1])
    monitor.step(2, {"all": [0.0, 0.0]}, {"skipped_steps": 1}, {"tokens": 10.0, "padded": 12.0, "samples": 2.0}, 0.0)
    monitor.close()
    first, second = records(Run(tmp_path))
    assert "loss" in first and "loss" not in second and second["skipped_steps"] == 1 and monitor.loss is None
    assert json.loads((tmp_path / "heartbeat.json").read_text())["loss"] is None


def test_a_pause_is_no_training(tmp_path):
    def speed(name, pauses):
        monitor = Monitor(Run(tmp_path / name), 2, log_every=2)
        feed(monitor, [1])
        time.sleep(0.3)
        if pauses:
            monitor.pause(0.3)
        feed(monitor, [2])
        monitor.close()
        return records(Run(tmp_path / name))[0]["seconds_per_step"]

    assert speed("with", True) < 0.1 < speed("without", False)


def test_a_resumed_run_has_every_record_once_and_the_same(tmp_path):
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    feed(Monitor(whole, 20, log_every=4), range(1, 21))
    first = Monitor(parts, 20, log_every=4)
    feed(first, range(1, 7))
    saved = json.loads(json.dumps(first.state()))   # the checkpoint of step 6, between two records
    feed(first, range(7, 11))                       # trained on, and recorded, but lost by a kill
    first.close()
    with open(parts.path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 12, "lo')            # cut short by it
    second = Monitor(parts, 20, log_every=4)
    second.resume(6, saved)
    feed(second, range(7, 21))
    second.close()
    keys = ("step", "loss", "loss/eu", "loss/en", "lr")
    assert [{k: r[k] for k in keys} for r in records(parts)] == [{k: r[k] for k in keys} for r in records(whole)]
    assert board(parts) == board(whole) == [4, 8, 12, 16, 20]


def test_negative_control_without_the_cut_steps_appear_twice(tmp_path):
    run = Run(tmp_path)
    feed(Monitor(run, 20, log_every=4), range(1, 11))
    feed(Monitor(run, 20, log_every=4), range(7, 21))
    assert [r["step"] for r in records(run)].count(8) == 2
    cut(run, 6)
    assert [r["step"] for r in records(run)] == [4]


def board(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tb"), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in events.Scalars("loss")]


def test_only_the_first_rank_writes(tmp_path):
    feed(Monitor(Run(tmp_path), 4, log_every=1, writes=False), range(1, 5))
    assert not list(tmp_path.iterdir())


def test_bytes_of_an_8b_model_under_each_stage():
    """7 B trained of 8 B in bf16 on 16 GPUs, by hand: 2 bytes a weight, 4 a gradient, 12 of AdamW."""
    counts = {"backbone": Counts(7 * 10 ** 9, 7 * 10 ** 9), "vision": Counts(10 ** 9, 0)}
    assert state_bytes(counts, "bfloat16", 16) == {
        0: (16 + 28 + 84) * 10 ** 9, 1: (16 + 28) * 10 ** 9 + 84 * 10 ** 9 // 16,
        2: 16 * 10 ** 9 + (28 + 84) * 10 ** 9 // 16, 3: (16 + 28 + 84) * 10 ** 9 // 16}
    assert state_bytes(counts, "float32", 1)[0] == (32 + 28 + 56) * 10 ** 9


def test_flops_count_what_is_trained():
    trained, frozen = (flops_per_token(Counts(1000, n), 2, 8, 10) for n in (1000, 0))
    assert (trained, frozen) == (6 * 1000 + 6 * 2 * 8 * 10, 4 * 1000 + 6 * 2 * 8 * 10)
    adapters = flops_per_token(Counts(1000, 10), 2, 8, 10)
    assert adapters == 4 * 1000 + 2 * 10 + 6 * 2 * 8 * 10
    assert flops_per_token(Counts(1000, 1000), 2, 8, 10, looked_up=300) == 6 * 700 + 6 * 2 * 8 * 10


@pytest.mark.parametrize("device, peak", [
    ("NVIDIA A100-SXM-64GB", 312e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA L40S", 362e12), ("NVIDIA L40", 181e12), ("AMD Instinct MI250X", 191.5e12), ("NVIDIA A1000", 0.0)])
def test_peaks_are_found_by_whole_words(device, peak):
    assert peak_of(device) == peak


def test_the_card_says_what_a_run_will_cost():
    found = card({"backbone": Counts(10, 10), "connector": Counts(4, 2)}, 100, 50.0, "float32", 2, 1, 8, 2,
                 flops=7e9, peak=1e12)
    assert found["parameters"]["connector"] == {"all": 4, "trained": 2} and found["accumulation"] == 2
    assert found["tokens"] == 5000 and found["expected hours"] == pytest.approx(5000 * 7e9 / 0.35e12 / 3600, abs=0.01)
