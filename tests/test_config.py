"""A configuration is checked when it is built: what can never run is named with its key, before anything runs."""
import pytest

from core.config import resolve
from core.errors import UserError

TRAIN, EVALUATE = "core.train:finetune", "core.evaluate:evaluate"


def nested(key, value):
    """{"a": {"b": value}} for "a.b"."""
    head, _, rest = key.partition(".")
    return {head: nested(rest, value) if rest else value}


@pytest.mark.parametrize(("key", "value", "remedy"), [
    ("train.schedule", "linear", "choose cosine, constant"), ("train.dtype", "float16", "choose bfloat16, float32"),
    ("train.warmup", 3, "must lie in 0..1"), ("train.betas", [0.9], "give two numbers"),
    ("train.betas", [0.9, 1.0], "give two numbers"), ("train.weight_decay", -0.1, "must be at least 0"),
    ("train.clip", float("nan"), "must be at least 0"), ("train.skip_bad_steps", -1, "must be at least 0"),
    ("train.lora_rank", -1, "must be at least 0"), ("train.trained", [], "at least one of vision, connector, backbone"),
    ("train.trained", ["head"], "at least one of vision, connector, backbone"),
    ("runtime.save_every", 0, "must be at least 1"), ("runtime.log_every", 0, "must be at least 1"),
    ("runtime.micro_batch", 0, "must be at least 1"), ("runtime.threads", 0, "must be at least 1"),
    ("runtime.workers", -1, "must be at least 0"), ("runtime.zero_stage", 5, "choose 0, 1, 2, 3"),
    ("model.vision_select", "cls", "choose default, full"), ("model.connector", "cubic", "choose linear, mlp2x_gelu"),
    ("pack.window", 0, "must be at least 1"), ("pack.images", 0, "must be at least 1"),
    ("pack.max_tokens", 4096, "larger than pack.tokens 2048"), ("mixture.target_ratio", 1.2, "must lie in 0..1"),
    ("mixture.unit", "tokens", "choose sample, token, loss_token"), ("mixture.samples", 0, "must be at least 1"),
    ("mixture.supervise", "user", "choose assistant, all"), ("mixture.text_only.share", -0.1, "must lie in 0..1"),
    ("mixture.text_only.language", "basque", "choose none, base, target, both"),
    ("mixture.sources", [{"data": "d", "subset": "s", "weight": 0}], "weight of source d/s is 0"),
    ("dtype", "fp16", "choose float32, bfloat16"), ("unit", 0, "must be at least 1"),
    ("batch", 0, "must be at least 1"), ("max_new_tokens", 0, "must be at least 1"),
    ("blanks", 0, "must be at least 1"), ("languages", [], "is empty")])
def test_a_value_that_can_never_run_is_named_with_its_key_and_the_remedy(key, value, remedy):
    with pytest.raises(UserError) as caught:
        resolve(TRAIN if "." in key else EVALUATE, nested(key, value))
    message = str(caught.value)
    assert remedy in message and "\n" not in message
    assert key in message or key == "mixture.sources"


@pytest.mark.parametrize(("function", "key", "value", "remedy"), [
    ("core.encoder:encoder", "epochs", 0, "epochs is 0: it must be at least 1"),
    ("core.encoder:encoder", "lr", -1, "lr is -1.0: it must be at least 0"),
    ("core.backbone:backbone", "layers", 0, "layers is 0: it must be at least 1"),
    ("core.backbone:backbone", "heads", 3, "hidden is 128: it must be a multiple of heads, 3"),
    ("core.backbone:backbone", "tokenizer.target_share", 2, "tokenizer.target_share is 2.0: it must lie in 0..1"),
    (TRAIN, "runtime.validation.items", -3, "runtime.validation.items is -3: it must be at least 1")])
def test_encoder_backbone_and_validation_have_ranges_too(function, key, value, remedy):
    with pytest.raises(UserError) as caught:
        resolve(function, nested(key, value))
    assert str(caught.value) == remedy


@pytest.mark.parametrize("key", ["train", "train.lr", "mixture.text_only"])
def test_a_number_in_the_place_of_a_section_is_named(key):
    with pytest.raises(UserError, match=rf"configuration key '{key}' is 3: set a key of it \("):
        resolve(TRAIN, nested(key, 3))


def test_a_part_is_not_trained_at_rate_0():
    vision = {"trained": ["connector", "vision"]}
    with pytest.raises(UserError, match=r"train\.lr\.vision is 0\.0: give it a rate above 0, or take vision out of"):
        resolve(TRAIN, {"train": vision})
    assert resolve(TRAIN, {"train": {**vision, "lr": {"vision": 1e-6}}})["train"]["lr"]["vision"] == 1e-6
