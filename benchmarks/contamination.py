"""How much planted contamination is found: evaluation images and questions put into training data in six disguises.

    python benchmarks/contamination.py [--each 50]

Images are Tux Paint's stamps (Debian), questions are LibreOffice help paragraphs. The rest of both stands in the
training data as control; some of it is nearly the same as an item by nature (coins of one series, paragraphs that
differ in one word), so what is accused there is an upper bound of the mistakes. Prints a table of recall per kind."""
from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_tools import apt, contamination, texts
from data_tools.dataset import Sample, building

SOURCE = [{"name": "t", "version": "1", "licence": "see the packages", "origin": "benchmark", "sha256": ""}]


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, kind, **options)
    return out.getvalue()


def cropped(image: Any, chance: random.Random, low: float, high: float) -> Any:
    share = chance.uniform(low, high)
    width, height = int(image.width * share), int(image.height * share)
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def reworded(text: str, chance: random.Random) -> str:
    """One word in eight replaced, a few words before and after."""
    words = text.split()
    for i in range(chance.randrange(8), len(words), 8):
        words[i] = chance.choice(("something", "usually", "rather", "other", "simply"))
    return " ".join(["Well,", "tell", "me:", *words, "Thanks."])


IMAGES = {
    "exact image": lambda image, chance: encoded(image),
    "recompressed (JPEG 50)": lambda image, chance: encoded(image, "JPEG", quality=50),
    "half size, JPEG 70": lambda image, chance: encoded(image.resize((image.width // 2, image.height // 2)), "JPEG",
                                                        quality=70),
    "mirrored": lambda image, chance: encoded(image.transpose(0)),
    "cropped to 80-95 %": lambda image, chance: encoded(cropped(image, chance, 0.8, 0.95), "JPEG", quality=85),
}
TEXTS = {
    "copied question": lambda text, chance: text,
    "inside a longer text": lambda text, chance: f"Here is a task. {text} Now answer it in a few words.",
    "reworded (1 word in 8)": reworded,
}


def stamps() -> list[Any]:
    from PIL import Image

    folders = apt.find(["tuxpaint-stamps-default"])
    if folders is None:
        raise SystemExit("this benchmark needs apt with tuxpaint-stamps-default")
    found = []
    for path in sorted(folders["tuxpaint-stamps-default"].rglob("*.png")):
        if "alphabets" in path.parts or "_mirror" in path.name or "_flip" in path.name:
            continue
        image = Image.open(path).convert("RGBA")
        if min(image.size) >= 60:
            white = Image.new("RGBA", image.size, "white")
            white.alpha_composite(image)
            white.thumbnail((300, 300))
            found.append(white.convert("RGB"))
    return found


def paragraphs() -> list[str]:
    names = ["libreoffice-help-en-us", "libreoffice-help-eu"]
    folders = apt.find(names)
    if folders is None:
        raise SystemExit("this benchmark needs apt with the LibreOffice help packages")
    pages = texts.help_pages(*(folders[n] for n in names))
    return [p[0] for page in pages for p in page if 10 <= len(p[0].split()) <= 40]


def training(identity: str, question: str, image: bytes | None) -> Sample:
    turns = [{"role": "user", "content": question + ("\n<image>" if image else "")},
             {"role": "assistant", "content": "Yes."}]
    return Sample({"id": identity, "source": "t", "license": "t", "turns": {"en": turns}, "meta": {}}, image)


def item(identity: str, question: str, image: bytes | None) -> Sample:
    prompt = question + ("\n<image>" if image else "")
    return Sample({"id": identity, "source": "t", "license": "t", "task": "t", "kind": "generate", "answer": -1,
                   "prompt": {"en": prompt}, "options": {}, "references": {"en": ["yes"]}, "meta": {}}, image)


def plant(folder: Path, each: int) -> tuple[int, int]:
    """Write both data sets; returns the number of control images and texts."""
    chance = random.Random(0)
    pictures, questions = stamps(), paragraphs()
    chance.shuffle(pictures)
    chance.shuffle(questions)

    def image_samples() -> Iterator[Sample]:
        for row, (kind, disguise) in enumerate(IMAGES.items()):
            for i in range(each):
                picture = pictures[(row * each + i) % (len(pictures) // 2)]
                yield training(f"{kind}/{i}", "What is it?", disguise(picture, chance))
        for i, picture in enumerate(pictures[len(pictures) // 2:]):
            yield training(f"control/{i}", "What is it?", encoded(picture))

    def text_samples() -> Iterator[Sample]:
        for row, (kind, disguise) in enumerate(TEXTS.items()):
            for i in range(each):
                yield training(f"{kind}/{i}", disguise(questions[row * each + i], chance), None)
        for i, question in enumerate(questions[10 * each:]):
            yield training(f"control text/{i}", question, None)

    with building(folder / "train", "train", ["en"]) as data:
        data.subset("image", "image", image_samples())
        data.subset("text", "text", text_samples())
        data.finish(SOURCE)
    with building(folder / "eval", "eval", ["en"]) as data:
        data.subset("image", "evaluation", (item(f"eval/{i}", "What?", encoded(p))
                                            for i, p in enumerate(pictures[:len(pictures) // 2])))
        data.subset("text", "evaluation", (item(f"eval text/{i}", q, None)
                                           for i, q in enumerate(questions[:len(TEXTS) * each])))
        data.finish(SOURCE)
    return len(pictures) - len(pictures) // 2, len(questions) - 10 * each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--show", type=int, default=0, help="print so many of the matches of controls")
    arguments = parser.parse_args()
    each = arguments.each
    with tempfile.TemporaryDirectory() as name:
        controls = plant(Path(name), each)
        started = time.monotonic()
        matches = contamination.find(Path(name) / "train", [Path(name) / "eval"])
        seconds = time.monotonic() - started
    accused = {m["train"] for m in matches}
    if arguments.show:
        for m in [m for m in matches if m["train"].startswith("control")][:arguments.show]:
            print(m)
    print("| planted | found |\n|---|---|")
    for kind in (*IMAGES, *TEXTS):
        print(f"| {kind} | {sum(f'{kind}/{i}' in accused for i in range(each))} of {each} |")
    for control, number in (("control", controls[0]), ("control text", controls[1])):
        count = sum(a.startswith(f"{control}/") for a in accused)
        print(f"| not planted, but accused ({control}) | {count} of {number} |")
    print(f"\n{seconds:.0f} s")


if __name__ == "__main__":
    main()
