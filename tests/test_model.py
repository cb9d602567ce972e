"""One model from two folders: what it computes, what it adds to the tokenizer, what is exported, what is refused."""
import subprocess
import sys

import pytest
import torch
from small import backbone_folder, packed, vision_folder

from core.assemble import assemble, end_of_turn, grow_embeddings, vision_features
from core.config import Model
from core.connector import StandardisedLinear, plain_tensors, standardise
from core.errors import UserError
from core.forward import PackedModel

OPTIONS = {"clip": Model(), "siglip": Model(vision_select="full"), "levit": Model(vision_layer=1, vision_select="full")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return {"lm": backbone_folder(root / "lm"), "untied": backbone_folder(root / "untied", tied=False),
            **{kind: vision_folder(root / kind, kind) for kind in OPTIONS}}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu"])
def test_export_reloads_without_begira_and_computes_the_same(folders, tmp_path, kind, connector):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    options = Model(**{**vars(OPTIONS[kind]), "connector": connector})
    built = assemble(folders[kind], folders["lm"], options, seed=3)
    built.net.save_pretrained(tmp_path)
    built.processor.save_pretrained(tmp_path)
    again, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    x = ask(AutoProcessor.from_pretrained(tmp_path))
    assert (x["input_ids"] == built.net.config.image_token_id).sum() == built.image_tokens == 4
    assert torch.equal(again.eval()(**x).logits, built.net(**x).logits)
    positions = torch.arange(x["input_ids"].shape[1])[None]
    hidden = PackedModel(built.net).hidden(x["input_ids"], positions, x["pixel_values"])
    torch.testing.assert_close(built.net.lm_head(hidden), built.net(**x).logits, rtol=0, atol=1e-6)


def ask(processor):
    from PIL import Image

    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Zer da hau?"}, {"type": "image"}]}],
        add_generation_prompt=True)
    assert "Zer da hau?\n<image>" in text
    return processor(images=Image.new("RGB", (20, 30), (200, 30, 90)), text=text, return_tensors="pt")


def test_a_linear_connector_is_one_matrix(folders):
    net = assemble(folders["clip"], folders["lm"], Model(), seed=1).net
    projector = net.model.multi_modal_projector
    x = torch.randn(3, 4, 24)
    torch.testing.assert_close(projector(x), projector.linear_1(x), rtol=0, atol=0)
    assert not any(p.requires_grad for p in projector.linear_2.parameters())


def test_the_connector_follows_from_its_seed(folders):
    one, same, other = (assemble(folders["clip"], folders["lm"], Model(), seed=s).net for s in (1, 1, 2))
    weight = [net.model.multi_modal_projector.linear_1.weight for net in (one, same, other)]
    assert torch.equal(weight[0], weight[1]) and not torch.equal(weight[0], weight[2])


def test_image_and_pad_tokens_are_added_and_kept_apart_from_the_end_of_turn(folders):
    built = assemble(folders["clip"], folders["lm"], Model())
    words = built.processor.tokenizer
    ids = [built.net.config.image_token_id, words.pad_token_id, words.eos_token_id]
    assert len(set(ids)) == 3 and max(ids) < built.net.get_input_embeddings().num_embeddings
    assert words("<image>")["input_ids"][-1:] == [ids[0]]
    assert built.net.generation_config.eos_token_id[0] == words.convert_tokens_to_ids("<|eot_id|>")


def test_generation_keeps_the_ends_that_the_backbone_knows(folders):
    from transformers import GenerationConfig

    words = assemble(folders["clip"], folders["lm"], Model()).processor.tokenizer
    assert end_of_turn(GenerationConfig(eos_token_id=[77, 3]), words).eos_token_id == [words.eos_token_id, 77]


@pytest.mark.parametrize("backbone", ["lm", "untied"])
def test_new_embedding_rows_are_the_mean_of_the_old(folders, backbone):
    from transformers import AutoModelForCausalLM

    language = AutoModelForCausalLM.from_pretrained(folders[backbone])
    old = language.get_input_embeddings().weight.detach().clone()
    grow_embeddings(language, len(old) + 2)
    new = language.get_input_embeddings().weight
    assert len(new) % 64 == 0 and torch.equal(new[:len(old)], old)
    torch.testing.assert_close(new[-1], old.mean(0))
    assert language.get_output_embeddings().weight.shape == new.shape


def test_standardised_features_train_inside_and_export_plain(folders):
    net = assemble(folders["levit"], folders["lm"], OPTIONS["levit"], seed=1).net
    mean, deviation = torch.randn(32) * 3, torch.rand(32) + 0.1
    x = torch.randn(5, 4, 32) * deviation + mean
    plain = net.model.multi_modal_projector.linear_1
    wanted = plain((x - mean) / deviation)
    standardise(net, mean, deviation, unfold=False)
    layer = net.model.multi_modal_projector.linear_1
    assert isinstance(layer, StandardisedLinear)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)
    tensors = plain_tensors(layer, {"linear_1.weight": layer.weight.detach(), "linear_1.bias": layer.bias.detach()})
    exported = torch.nn.functional.linear(x, tensors["linear_1.weight"], tensors["linear_1.bias"])
    assert torch.equal(exported, layer(x))


def test_a_trained_connector_is_unfolded_into_standardised_space(folders):
    net = assemble(folders["levit"], folders["lm"], OPTIONS["levit"], seed=1).net
    mean, deviation, x = torch.randn(32), torch.rand(32) + 0.1, torch.randn(5, 4, 32)
    before = net.model.multi_modal_projector(x)
    standardise(net, mean, deviation, unfold=True)
    torch.testing.assert_close(net.model.multi_modal_projector(x), before, rtol=1e-4, atol=1e-5)


def test_features_are_those_that_llava_reads(folders):
    for kind, options in OPTIONS.items():
        net = assemble(folders[kind], folders["lm"], options).net
        pixels = torch.randn(2, 3, net.config.vision_config.image_size, net.config.vision_config.image_size)
        ours = PackedModel(net).features(pixels)
        theirs = torch.stack(list(net.get_image_features(pixels, return_dict=True).pooler_output))
        assert torch.equal(ours, theirs)


def test_one_image_less_than_placeholders_is_an_error(folders):
    built = assemble(folders["clip"], folders["lm"], Model())
    batch = packed(built, [2])
    with pytest.raises(ValueError, match="8 image placeholders for 4"):
        PackedModel(built.net)(batch.input_ids, batch.position_ids, batch.labels, batch.pixels[:1])


@pytest.mark.parametrize(("change", "message"), [
    ({"connector": "cubic"}, "model.connector is 'cubic': choose linear, mlp2x_gelu"),
    ({"vision_layer": 9}, "model.vision_layer 9 does not exist"),
    ({"vision_select": "default"}, "no square grid")])
def test_what_does_not_fit_is_named(folders, change, message):
    with pytest.raises(UserError, match=message):
        assemble(folders["siglip"], folders["lm"], Model(**{**vars(OPTIONS["siglip"]), **change}))


def test_the_export_loads_without_begira_and_without_torchvision(folders, tmp_path):
    built = assemble(folders["levit"], folders["lm"], OPTIONS["levit"], seed=3)
    built.net.save_pretrained(tmp_path / "out")
    built.processor.save_pretrained(tmp_path / "out")
    program = ("import sys; sys.modules['torchvision'] = None\n"
               "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P\n"
               "from PIL import Image\n"
               "p, m = P.from_pretrained('out'), M.from_pretrained('out')\n"
               "x = p(images=Image.new('RGB', (9, 9)), text='<image>?', return_tensors='pt')\n"
               "print('ids', m.generate(**x, max_new_tokens=3, do_sample=False)[0].tolist())\n"
               "assert not any(n == 'core' or n.startswith('core.') for n in sys.modules)\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "ids [" in done.stdout, done.stderr[-1500:]


def test_a_two_tower_model_gives_its_vision_half(folders, tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    small = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPModel(CLIPConfig(text_config=CLIPTextConfig(**small, vocab_size=50).to_dict(),
                         vision_config=CLIPVisionConfig(**small, image_size=16, patch_size=8).to_dict(),
                         projection_dim=8)).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False).save_pretrained(tmp_path)
    built = assemble(tmp_path, folders["lm"], Model())
    assert type(built.net.model.vision_tower).__name__ == "CLIPVisionModel" and built.image_tokens == 4
    assert vision_features(built.net.model.vision_tower, torch.zeros(1, 3, 16, 16), -2, "default").shape == (1, 4, 24)


def test_flash_attention_is_for_half_precision(monkeypatch):
    """Its kernels refuse float32, which the miniature trains in."""
    import transformers.utils

    from core.assemble import attention

    assert attention(torch.bfloat16) == "sdpa" or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    assert [attention(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)] == [
        "flash_attention_2", "flash_attention_2", "sdpa"]
