"""From a record to ids, loss mask and pixels: exact spans, Llama-3's template, images, what is broken is named."""
import io
import struct
import zlib

import numpy as np
import pytest
import toydata
from PIL import Image

from core.encode import Encoder, pad_id
from core.errors import UserError
from core.lengths import lengths
from core.pixels import Pixels, open_image
from core.shards import Corrupt, DataSet

# what matters of Llama 3.1's: a system header that prints a date, turns trimmed, a system turn moved into that header
DATED = ("{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
         "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
         "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
         "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system }}<|eot_id|>"
         "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
         "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}")


@pytest.fixture(scope="module")
def words():
    return toydata.tokenizer()


@pytest.fixture(scope="module")
def processor():
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)


def record(*turns, identity="x"):
    return {"id": identity, "turns": {"eu": [{"role": r, "content": c} for r, c in turns]}}


def said(encoder, encoded):
    """The supervised text, and everything else with supervised tokens blanked."""
    return encoder.tokenizer.decode(encoded.ids[encoded.supervised])


@pytest.mark.parametrize("template", [toydata.TEMPLATE, DATED])
def test_loss_falls_on_the_answers_and_their_end_alone(words, template):
    encoder = Encoder(toydata.tokenizer(template=template))
    talk = [("user", "Zer da hau?"), ("assistant", "  katu txiki \n"), ("user", "Eta hau?"),
            ("assistant", "Ñandu bat 🐈")]
    encoded = encoder.encode(record(*talk), "eu")
    assert said(encoder, encoded) == "katu txiki<|eot_id|>Ñandu bat 🐈<|eot_id|>"
    whole = encoder.tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in talk], tokenize=False,
                                                  date_string=encoder.date)
    assert encoded.ids.tolist() == encoder.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert encoded.loss == encoded.supervised.sum() and not encoded.supervised[0]


def test_a_system_turn_is_read_and_not_supervised():
    encoder = Encoder(toydata.tokenizer(template=DATED))
    encoded = encoder.encode(record(("system", "txori"), ("user", "katu"), ("assistant", "etxe")), "eu")
    assert said(encoder, encoded) == "etxe<|eot_id|>"
    assert "26 Jul 2024\n\ntxori<|eot_id|>" in encoder.tokenizer.decode(encoded.ids)


def test_the_date_does_not_move_with_the_calendar():
    encoder = Encoder(toydata.tokenizer(template=DATED))
    assert "Today Date: 26 Jul 2024" in encoder.tokenizer.decode(encoder.prompt("katu"))
    other = Encoder(toydata.tokenizer(template=DATED), date="01 Jan 2026")
    assert other.key != encoder.key and "01 Jan 2026" in other.tokenizer.decode(other.prompt("katu"))


def test_plain_text_has_no_template(words):
    encoder = Encoder(words, supervise="all")
    encoded = encoder.encode(record(("assistant", "katu bat")), "eu")
    assert encoder.tokenizer.decode(encoded.ids) == "<|begin_of_text|>katu bat<|eot_id|>"
    assert encoded.supervised.tolist() == [False] + [True] * (len(encoded.ids) - 1)
    assert said(Encoder(words), Encoder(words).encode(record(("assistant", "katu bat")), "eu")) == "katu bat<|eot_id|>"


def test_an_image_becomes_its_placeholders(words, processor):
    encoder = Encoder(words, processor, image_tokens=5)
    image = toydata.picture(3)
    encoded = encoder.encode(record(("user", "Zer da hau?\n<image>"), ("assistant", "katu")), "eu", image)
    assert (encoded.ids == encoder.image_id).sum() == 5 and encoded.pixels.shape == (1, 3, 16, 16)
    assert said(encoder, encoded) == "katu<|eot_id|>"
    every = Encoder(words, processor, image_tokens=5, supervise="all")
    encoded = every.encode(record(("user", "Zer da hau?\n<image>"), ("assistant", "katu")), "eu", image)
    assert not encoded.supervised[encoded.ids == encoder.image_id].any() and encoded.supervised[1:4].all()


def test_prompt_and_answer_are_what_training_saw(words, processor):
    encoder = Encoder(words, processor, image_tokens=5)
    question, answer = "Zer da hau?\n<image>", "katu txiki"
    trained = encoder.encode(record(("user", question), ("assistant", answer)), "eu", toydata.picture(3)).ids
    assert np.concatenate([encoder.prompt(question), encoder.answer(question, answer)]).tolist() == trained.tolist()


def test_a_long_sample_is_cut_at_its_end(words, processor):
    encoder = Encoder(words, processor, image_tokens=5, max_tokens=30)
    encoded = encoder.encode(record(("user", "<image>"), ("assistant", "katu " * 50)), "eu", toydata.picture(1))
    assert len(encoded.ids) == 30 and encoded.supervised[-1]
    with pytest.raises(Corrupt, match="does not fit into pack"):
        encoder.encode(record(("user", "katu " * 40 + "<image>"), ("assistant", "etxe")), "eu", toydata.picture(1))


@pytest.mark.parametrize(("broken", "image", "says"), [
    ({"id": "a", "turns": {"en": []}}, False, "no turns in 'eu'"),
    ({"id": "a"}, False, "no turns in 'eu'"),
    ({"id": "a", "turns": {"eu": [{"role": "user"}]}}, False, "lacks role or content"),
    ({"id": "a", "turns": {"eu": ["katu"]}}, False, "lacks role or content"),
    (record(("user", "<image>"), ("assistant", "katu")), False, "asks for 1 images and has 0"),
    (record(("user", "katu"), ("assistant", "katu")), True, "asks for 0 images and has 1"),
])
def test_what_cannot_be_encoded_is_corrupt(words, processor, broken, image, says):
    encoder = Encoder(words, processor, image_tokens=5)
    with pytest.raises(Corrupt, match=says):
        encoder.encode(broken, "eu", toydata.picture(1) if image else None)
    assert encoder.lengths([broken], "eu", [int(image)])[0].tolist() == [-1]


def test_tokenizers_that_will_not_do(words, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(UserError, match="no token <picture>: add it"):
        patched.setattr("core.encode.IMAGE", "<picture>")
        Encoder(words, image_tokens=5)
    with pytest.raises(UserError, match="drops or reorders turns"):
        only_last = "{{ messages[-1]['content'] }}<|eot_id|>"
        Encoder(toydata.tokenizer(template=only_last)).encode(record(("user", "a"), ("assistant", "b")), "eu")
    with pytest.raises(UserError, match="changes what a turn says"):
        shouting = "{% for m in messages %}{{ m['content'] | replace('a', 'A') }}<|eot_id|>{% endfor %}"
        Encoder(toydata.tokenizer(template=shouting)).encode(record(("user", "a"), ("assistant", "b")), "eu")
    with pytest.raises(UserError, match="cannot print turns of user, user"):
        strict = "{% if messages[1]['role'] == 'user' %}{{ raise_exception('two') }}{% endif %}x"
        Encoder(toydata.tokenizer(template=strict)).encode(record(("user", "a"), ("user", "b")), "eu")


def test_the_pad_token_is_not_the_end_of_a_turn():
    tokenizer = toydata.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.convert_ids_to_tokens(pad_id(tokenizer)) == "<|finetune_right_pad_id|>"
    encoded = Encoder(tokenizer).encode(record(("user", "a"), ("assistant", "b")), "eu")
    assert encoded.ids[encoded.supervised][-1] == tokenizer.eos_token_id


def test_lengths_are_those_of_the_encoded_samples(words, processor, tmp_path):
    subset = DataSet(toydata.toy(tmp_path, images=60, texts=10)).subset("image")
    encoder = Encoder(words, processor, image_tokens=4, max_tokens=24)
    found = lengths(subset, encoder, ("en", "eu"))
    for language, (tokens, loss) in found.items():
        for i in range(subset.n):
            if language not in subset.record(i)["turns"]:
                assert tokens[i] == loss[i] == -1
                continue
            encoded = encoder.encode(subset.record(i), language, subset.read(i)[1])
            assert (tokens[i], loss[i]) == (len(encoded.ids), encoded.loss)


def test_lengths_are_counted_once_per_tokenizer_and_data(words, tmp_path, monkeypatch):
    folder = toydata.toy(tmp_path, images=20, texts=10)
    subset, encoder = DataSet(folder).subset("text"), Encoder(words)
    first = lengths(subset, encoder, ("en",))
    assert len(list((folder / "text").glob("lengths-*.npz"))) == 1
    counted = []
    monkeypatch.setattr(type(encoder), "lengths", lambda self, records, language, images: counted.append(language)
                        or (np.ones(len(records), np.int32),) * 2)
    assert (lengths(subset, encoder, ("en",))["en"][0] == first["en"][0]).all() and not counted
    lengths(subset, encoder, ("en", "eu"))
    assert counted == ["eu"]
    lengths(subset, Encoder(words, max_tokens=7), ("en",))
    lengths(subset, Encoder(toydata.tokenizer(vocabulary=300)), ("en",))
    assert counted == ["eu", "en", "en"] and len(list((folder / "text").glob("lengths-*.npz"))) == 3
    subset.fingerprint = "other shards"
    lengths(subset, encoder, ("en",))
    assert counted == ["eu", "en", "en", "en"]
    file = folder / "text" / f"lengths-{encoder.key}.npz"
    file.write_bytes(file.read_bytes()[:100])
    lengths(subset, encoder, ("en",))
    assert len(counted) == 5 and not list((folder / "text").glob(".*"))


@pytest.mark.parametrize("flagged", [False, True])
def test_what_cannot_be_read_is_remembered_only_if_the_index_says_so(words, tmp_path, flagged):
    """A shard that is restored after a bad moment has the fingerprint that it had in it."""
    folder = toydata.toy(tmp_path, images=10, texts=20)
    subset, shard = DataSet(folder).subset("text"), folder / "text" / "000000.tar"
    good = shard.read_bytes()
    shard.write_bytes(good.replace(b'{"id":"text/3"', b'~"id":"text/3"'))
    subset.bad[3] = flagged
    assert lengths(subset, Encoder(words), ("en",))["en"][0].tolist().index(-1) == 3
    shard.write_bytes(good)
    subset.close()
    assert ((lengths(subset, Encoder(words), ("en",))["en"][0] > 0).all()) != flagged


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"])
def test_images_of_any_mode_become_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray((np.arange(256).reshape(16, 16) * 200).astype(np.uint16))
    else:
        image = Image.open(io.BytesIO(toydata.picture(1))).convert("RGB").convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF" if mode == "CMYK" else "PNG")
    assert open_image(stream.getvalue()).mode == "RGB"


def test_transparency_lies_on_white():
    stream = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(stream, "PNG")
    assert np.asarray(open_image(stream.getvalue())).min() == 255


def png(*chunks):
    """A PNG of these (kind, body), whatever they are."""
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
             for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


ROWS = zlib.compress(bytes(16 * 49), 0)
# PIL raises a SyntaxError
DAMAGED = png(header(16, 16), (b"IDAT", ROWS[:200]), (b"\0\0\0\0", ROWS[200:]), (b"IEND", b""))


@pytest.mark.parametrize(("data", "error"), [
    (b"", OSError), (DAMAGED, ValueError), (b"no image", OSError), (toydata.picture(1, 64)[:2000], OSError),
    (toydata.picture(1, 64, "JPEG")[:1500], OSError)])
def test_broken_images_raise(data, error):
    with pytest.raises(error):
        open_image(data)


@pytest.mark.parametrize(("side", "says"), [(9_000, "9000 x 9000 pixels"), (40_000, "1600000000 pixels")])
def test_a_bomb_is_refused_before_it_is_decoded(side, says):
    with pytest.raises(ValueError, match=says):
        open_image(png(header(side, side), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")))


@pytest.mark.parametrize("kind", ["plain", "crop"])
def test_the_short_way_round_the_processor_changes_nothing(processor, kind):
    from transformers import CLIPImageProcessorPil

    if kind == "crop":
        processor = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
    pixels = Pixels(processor)
    assert (pixels._scale is not None) == (kind == "plain")
    for size in (16, 30):
        image = open_image(toydata.picture(2, size))
        expected = processor(images=[image], return_tensors="np")["pixel_values"][0]
        found = pixels(image)
        assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5
