"""What is read and how it is packed, as checked dataclasses: the parts `mixture` and `pack` of a configuration.

Not here: the order that follows from it (core.mixture, core.pack).
"""
from __future__ import annotations

from dataclasses import dataclass, field

from core.errors import UserError
from core.structured import require, require_share


@dataclass
class Source:
    """One subset of a data set, e.g. data="emoji-eu", subset="name"."""

    data: str = ""                   # or shards without an index; see `is_stream`
    subset: str = ""
    weight: float = 1.0              # share among its kind (image sources, text-only sources)


def is_stream(data: str) -> bool:
    """Is this `Source.data` a URL, a pipe or a tar, and no data set?"""
    return "://" in data or data.startswith("pipe:") or data.endswith(".tar")


@dataclass
class TextOnly:
    """The second axis: text-only data on top of the image-text samples."""

    language: str = "none"           # none | base | target | both
    share: float = 0.0               # of all samples (in `Mixture.unit`); image-text samples stay the same in number
    sources: list[Source] = field(default_factory=list)

    def __post_init__(self) -> None:
        require("mixture.text_only.", self, language=("none", "base", "target", "both"))
        require_share("mixture.text_only.share", self.share)


@dataclass
class Mixture:
    """What is read, in which order. A pure function of this and nothing else."""

    base_language: str = "en"
    target_language: str = "eu"
    target_ratio: float = 0.0        # share of the image-text samples whose text is in the target language
    unit: str = "sample"             # sample | token | loss_token: what every share and ratio counts
    samples: int = 16000             # image-text samples read in all (text-only comes on top)
    sources: list[Source] = field(default_factory=list)
    text_only: TextOnly = field(default_factory=TextOnly)
    supervise: str = "assistant"     # assistant: answers only | all: every token (language modelling)
    seed: int = 0

    def __post_init__(self) -> None:
        require("mixture.", self, unit=("sample", "token", "loss_token"), samples=1, supervise=("assistant", "all"))
        require_share("mixture.target_ratio", self.target_ratio)
        for source in [*self.sources, *self.text_only.sources]:
            if not source.weight > 0:
                raise UserError(f"the weight of source {source.data}/{source.subset} is {source.weight}: it must be "
                                "above 0")


@dataclass
class Pack:
    """Samples of a window are laid into packs of nearly equal cost; a global batch is a number of packs."""

    tokens: int = 2048               # tokens per pack, on average over a window
    window: int = 1                  # global batches that are packed together; 1 keeps every share exact at every step
    max_tokens: int = 2048           # a single sample longer than this is cut at its end
    images: int = 16                 # images per pack, on average at most

    def __post_init__(self) -> None:
        require("pack.", self, tokens=1, window=1, max_tokens=1, images=1)
        if self.max_tokens > self.tokens:
            raise UserError(f"pack.max_tokens {self.max_tokens} is larger than pack.tokens {self.tokens}: raise "
                            "pack.tokens or cut samples shorter")
