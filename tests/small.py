"""Tiny models as folders, and hand-made packed batches: what the tests of the training core stand on."""
import torch

WIDTH = 32
SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = ("{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
            "{{ m['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")


def tokenizer():
    """Byte-level, no merges: 256 bytes and the specials; without image and pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=SPECIAL[0], eos_token=SPECIAL[3])
    found.add_tokens(list(SPECIAL), special_tokens=True)
    found.chat_template = TEMPLATE
    return found


def backbone_folder(folder, tied=True, layers=2, seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(words), hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=layers,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
                         tie_word_embeddings=tied, bos_token_id=0, eos_token_id=3)
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def vision_folder(folder, kind="clip", seed=0):
    """clip: 16 px, patches of 8, CLS + 4 tokens. siglip: 4 tokens. levit: 48 px, 4 tokens at layer 1."""
    import transformers as t

    torch.manual_seed(seed)
    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
             "image_size": 16, "patch_size": 8}
    if kind == "clip":
        model = t.CLIPVisionModel(t.CLIPVisionConfig(**shape))
    elif kind == "siglip":
        model = t.SiglipVisionModel(t.SiglipVisionConfig(**shape))
    else:
        model = t.LevitModel(t.LevitConfig(image_size=48, hidden_sizes=[32, 32, 32], depths=[1], key_dim=[8] * 3,
                                           num_attention_heads=[1, 1, 1], mlp_ratio=[2] * 3, attention_ratio=[2] * 3))
    model.save_pretrained(folder)
    size = 48 if kind == "levit" else 16
    t.CLIPImageProcessorPil(size={"height": size, "width": size}, do_center_crop=False).save_pretrained(folder)
    return folder


def packed(assembled, rows, seed=0, answers=(1, 6), documents=(1, 3)):
    """A micro-batch as core.stream.Packed: `rows` is a list with the number of images of each row, at most one a
    document; each document ends in random answer tokens."""
    from core.encode import Encoded
    from core.stream import Document, collate

    generator = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    image_id, size = assembled.net.config.image_token_id, assembled.net.config.vision_config.image_size
    packs = []
    for images in rows:
        pack = []
        for index in range(max(images, number(*documents))):
            prompt, answer = number(2, 8), number(*answers)
            ids = torch.randint(4, 80, (prompt + answer,), generator=generator)
            place = torch.full((assembled.image_tokens if index < images else 0,), image_id)
            ids = torch.cat([ids[:1], place, ids[1:]])
            asked = torch.arange(len(ids)) >= len(ids) - answer
            pixels = torch.randn(1, 3, size, size, generator=generator).numpy() if index < images else None
            pack.append(Document(Encoded(ids.numpy(), asked.numpy(), pixels), 0, f"d:{len(packs)}.{index}:en"))
        packs.append(pack)
    return collate(packs, assembled.processor.tokenizer.pad_token_id)


def inputs(batch):
    return batch.input_ids, batch.position_ids, batch.labels, batch.pixels
