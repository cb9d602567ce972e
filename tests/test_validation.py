"""Validation during training: its losses and answers are the model's own, under every kind of ZeRO, and a run with it
equals one without bit for bit."""
import math

import pytest
import torch
import toydata
import trainruns
from ranks import run_ranks
from trainruns import STEPS, curve, finetune_run, site, weights

from core.assemble import assemble
from core.config import Model, Task, Validation
from core.distributed import joined
from core.encode import Encoder
from core.errors import UserError
from core.examiner import Examiner
from core.files import read_json
from core.likelihood import Choice, image_features, option_scores
from core.model import load_run_model
from core.pixels import open_image
from core.questions import select
from core.run import Run
from core.validation import Validator
from data_tools.dataset import Sample, building

ITEMS, SHOWN, NEW = 7, 2, 5      # 14 documents: neither 2 ranks nor micro-batches of 3 divide them
ASKED = {"every": 5, "data": "asked", "subset": "dev", "items": ITEMS, "shown": SHOWN, "max_new_tokens": NEW}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = site(tmp_path_factory.mktemp("site"))
    with building(root / "data" / "asked", "asked", ["en", "eu"]) as writer:
        writer.subset("dev", "evaluation", map(item, range(500, 500 + ITEMS)))
        writer.subset("mixed", "evaluation", [*map(item, range(600, 605)), *broken()])
        writer.subset("broken", "evaluation", broken())
        writer.finish([{"name": "test", "version": "1", "licence": "CC0", "origin": "made"}])
    return root


def item(number):
    sample = toydata.image_sample(number)
    turns = sample.record.pop("turns")
    sides = {part: {language: turn[place]["content"] for language, turn in turns.items()}
             for place, part in enumerate(("prompt", "references"))}
    return Sample({**sample.record, "task": "describe", "kind": "generate", "prompt": sides["prompt"], "options": {},
                   "answer": -1, "references": {language: [text] for language, text in sides["references"].items()},
                   "meta": {"concept": str(number)}}, sample.image)


def broken():
    """An image that is none, and a question without image."""
    one, other = item(700), item(701)
    words = {language: text.replace("\n<image>", "") for language, text in other.record["prompt"].items()}
    return [Sample(one.record, b"no image"), Sample({**other.record, "prompt": words}, None)]


def validated(path):
    return [{key: value for key, value in record.items() if key.startswith("validation/")} for record in curve(path)]


def board(path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(path / "tb"), size_guidance={"images": 0, "tensors": 0}).Reload()


@pytest.mark.parametrize(("stage", "size"), [(0, 1), (3, 2), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_it_changes_nothing_and_says_what_the_model_says(root, stage, size):
    without, path = (finetune_run(root, f"{name}-{stage}", zero_stage=stage, micro_batch=1 + (size == 1),
                                  **more) for name, more in (("without", {}), ("with", {"validation": ASKED})))
    plain, asked = (run_ranks(trainruns.train, size, one, timeout=280)[0] for one in (without, path))
    assert plain["spent"]["validation"] == 0 < asked["spent"]["validation"] < asked["seconds"]
    plain = [{key: value for key, value in record.items() if not key.startswith("validation/")}
             for record in curve(path)]
    assert plain == curve(without)
    before, after = weights(without), weights(path)
    assert all(torch.equal(before[name], after[name]) for name in before)

    found = validated(path)
    assert [step for step, values in enumerate(found, 1) if values] == [5, 10, STEPS]
    assert found[-1] == pytest.approx(losses(path, root), rel=1e-5)
    assert found[-1] != found[4]
    events = board(path)
    assert [event.step for event in events.Images("validation/image 1")] == [5, 10, STEPS]
    assert f"validation/image {SHOWN + 1}" not in events.Tags()["images"]
    table = events.Tensors("validation/answers/text_summary")[-1].tensor_proto.string_val[0].decode()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [(row[1], row[3], row[4]) for row in rows] == answers(path, root)
    assert read_json(path / "heartbeat.json")["step"] == STEPS


def losses(path, root):
    """The same by another way: the saved model, one answer at a time."""
    net, processor = load_run_model(path)
    encoder = Encoder(processor.tokenizer, processor.image_processor, net.config.image_seq_length, 100)
    net.eval().set_attn_implementation("sdpa")
    sums = {"en": [0.0, 0], "eu": [0.0, 0]}
    for question in select([Task("asked", "dev")], root / "data"):
        pixels = torch.from_numpy(encoder.pixels(open_image(question.image())))[None]
        for language, pair in sums.items():
            prompt, reference = question.record["prompt"][language], question.record["references"][language][0]
            choice = Choice(encoder.prompt(prompt).tolist(), [encoder.answer(prompt, reference).tolist()], 0)
            pair[0] -= option_scores(net, [choice], image_features(net, pixels))[0][0]
            pair[1] += len(choice.options[0])
    return {f"validation/loss/{language}": nats / tokens for language, (nats, tokens) in sums.items()}


def answers(path, root):
    examiner = Examiner(*load_run_model(path))
    shown = select([Task("asked", "dev")], root / "data")[:SHOWN]
    rows = examiner.ask(shown, ("en", "eu"), NEW)
    return [(row["language"], " ".join(row["prediction"].split()), row["references"][0]) for row in rows]


def test_losses_do_not_depend_on_ranks_or_micro_batches(root):
    found = []
    for size, micro_batch in ((1, 4), (2, 1)):
        path = finetune_run(root, f"ranks-{size}", micro_batch=micro_batch, validation={**ASKED, "every": STEPS})
        run_ranks(trainruns.train, size, path, timeout=280)
        found.append(validated(path)[-1])
    assert found[0] == pytest.approx(found[1], rel=1e-4) and all(math.isfinite(value) for value in found[0].values())


def work(root, flaky):
    """Documents per batch and shown samples of this rank; rank `flaky` cannot read one image for a moment."""
    run = Run(root / "runs" / "study" / "finetune" / "built")
    folders = [run.parent(role).path / "model" for role in ("encoder", "backbone")]
    with joined(1) as world:
        assembled = assemble(*folders, Model(), torch.float32, 0)
        processor = assembled.processor
        encoder = Encoder(processor.tokenizer, processor.image_processor, assembled.image_tokens, 100)
        if world.rank == flaky:
            plain, calls = encoder.read_image, []

            def read(image):
                calls.append(1)
                if len(calls) == 3:
                    raise OSError("the file system is slow today")
                return plain(image)

            encoder.read_image = read
        made = Validator(Validation(**{**ASKED, "subset": "mixed"}), ("en", "eu"), root / "data", encoder, world, 2)
        return [len([key for key in batch.keys if key]) for batch in made.batches], len(made.shown)


def test_all_ranks_ask_the_same_items_whatever_one_of_them_cannot_read(root):
    finetune_run(root, "built")
    whole = run_ranks(work, 2, root, None, timeout=120)
    assert whole == [([2, 2, 2], 2 * SHOWN), ([2, 2, 0], 2 * SHOWN)]        # 5 items of 7, in two languages
    assert run_ranks(work, 2, root, 0, timeout=120) == [([2, 2], 2 * SHOWN), ([2, 2], 2 * SHOWN)]  # 4 of 7


@pytest.mark.parametrize(("changes", "message"), [
    ({"subset": "broken"}, "no item with image and answer in en and eu"),
    ({"every": 3, "log_every": 2}, "multiple of runtime.log_every, 2"),
    ({"subset": "nothing"}, "nothing"), ({"task": "naming"}, "no task 'naming'")])
def test_settings_that_cannot_work_end_before_the_first_step(root, changes, message):
    log_every = changes.pop("log_every", 1)
    name = f"bad-{'-'.join(map(str, changes.values()))}"
    path = finetune_run(root, name, log_every=log_every, validation={**ASKED, **changes})
    with pytest.raises((UserError, AssertionError), match=message):
        run_ranks(trainruns.train, 1, path, timeout=120)
    assert not (path / "metrics.jsonl").exists()
