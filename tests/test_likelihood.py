"""Option scores behind one reading of the prompt against the naive loop, and what it saves."""

import pytest
import torch
from seeing import COLOURS, build, colour_pixels, parts_in

from benchmarks.choice import measure
from core.encode import Encoder
from core.errors import UserError
from core.examiner import BLANKS, Examiner
from core.likelihood import Choice, image_features, option_scores

QUESTION = "What is this?\n<image>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    assembled = build(parts_in(tmp_path_factory.mktemp("models")))
    processor = assembled.processor
    return assembled.net, Encoder(processor.tokenizer, processor.image_processor, assembled.image_tokens)


def naive(net, prompt, option, pixels):
    """One forward pass of transformers' own model over prompt and option."""
    ids = torch.tensor([[*prompt, *option]])
    with torch.inference_mode():
        logits = net(input_ids=ids, pixel_values=pixels).logits[0, len(prompt) - 1:-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(option)[:, None]).sum().item()


def test_scores_equal_the_naive_loop(model):
    net, encoder = model
    pixels = torch.stack([torch.from_numpy(colour_pixels(encoder, name)) for name in COLOURS])
    prompts = [encoder.prompt(QUESTION).tolist(), encoder.prompt("Zer da hau? Zer da?\n<image>").tolist()]
    options = [encoder.answer(QUESTION, text).tolist()
               for text in ("red", "a small green house on a hill", "txori txiki urdina", "x")]
    choices = [Choice(prompts[n % 2], options[:2 + n % 3], n % len(COLOURS)) for n in range(9)]
    scores = option_scores(net, choices, image_features(net, pixels), batch=4)
    for choice, found in zip(choices, scores, strict=True):
        for option, score in zip(choice.options, found, strict=True):
            assert score == pytest.approx(naive(net, choice.prompt, option, pixels[choice.image][None]), abs=1e-5)


def test_an_option_does_not_see_the_others(model):
    net, encoder = model
    prompt = encoder.prompt("What is this?").tolist()
    one, other, third = (encoder.answer("What is this?", text).tolist() for text in ("a cat", "the dog", "blue moon"))
    alone = option_scores(net, [Choice(prompt, [one])])[0][0]
    first, _, last = option_scores(net, [Choice(prompt, [one, other, third])])[0]
    assert first == pytest.approx(alone, abs=1e-6)
    assert last == pytest.approx(option_scores(net, [Choice(prompt, [third])])[0][0], abs=1e-6)


def test_placeholders_and_images_must_agree(model):
    net, encoder = model
    features = image_features(net, torch.from_numpy(colour_pixels(encoder, "red"))[None])
    with pytest.raises(ValueError, match="0 image placeholders for 4"):
        option_scores(net, [Choice(encoder.prompt("What is this?").tolist(), [[5]], 0)], features)


def test_an_answer_is_tokenised_as_in_training(model):
    _, encoder = model
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "a cat"}]
    record = {"id": "x", "turns": {"en": turns}}
    ids = encoder.lengths([record], "en", [1])[0][0]
    assert ids == len(encoder.prompt(QUESTION)) + len(encoder.answer(QUESTION, "a cat"))


def test_four_options_cost_far_less_than_four_prompts():
    found = measure(options=4, prompt=96, questions=16, repeats=4)
    assert found["difference"] < 1e-5
    assert found["ratio"] >= 2.5


def test_blank_scores_are_mean_probabilities_over_blank_images(tmp_path):
    from PIL import Image

    assembled = build(parts_in(tmp_path))
    examiner = Examiner(assembled.net, assembled.processor)
    net, encoder = examiner.net, examiner.encoder
    height, width = encoder.pixels.size
    expected = []
    for colour in BLANKS[:3]:
        pixels = torch.from_numpy(encoder.pixels(Image.new("RGB", (width, height), colour)))[None]
        expected.append(naive(net, encoder.prompt(QUESTION).tolist(), encoder.answer(QUESTION, "red").tolist(), pixels))
    pairs = [(QUESTION, "red"), ("What is this?", "red")]
    found = examiner.blank_scores(pairs, 3)
    assert len({round(value, 3) for value in expected}) == 3
    assert found[0] == pytest.approx(torch.tensor(expected).exp().mean().log().item(), abs=1e-5)
    assert examiner.blank_scores(pairs)[0] == pytest.approx(expected[0], abs=1e-5)
    assert examiner.blank_scores(pairs)[1] == pytest.approx(found[1], abs=1e-6), "no image, no difference"
    with pytest.raises(UserError, match="blanks is 9"):
        examiner.blank_scores(pairs, 9)
