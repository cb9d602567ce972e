"""Configuration of every stage as checked dataclasses; `core.structured` turns a mapping into them.

What can change a run's result stands here at top level and enters its identity; `runtime` holds what cannot (hardware,
paths, workers, logging) and stays out of it. No import of torch: the command line reads this module.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from core.config_mixture import Mixture, Pack, Source
from core.errors import UserError
from core.parts import NAMES
from core.structured import hints, rebuilt, require, require_share, structured


@dataclass
class Runtime:
    """Everything that may differ between two sites without changing the result. Never hashed."""

    data_root: str = "data"          # folder that holds the data sets
    models_root: str = "models"      # folder that holds pretrained models, as <owner>/<name>
    nodes: int = 1
    ranks_per_node: int = 1          # one rank per GPU; on a CPU one process
    threads: int = 1                 # CPU threads per rank
    workers: int = 0                 # data-loading processes per rank
    micro_batch: int = 1             # packs per forward pass and rank; accumulation follows from it
    zero_stage: int = 0              # DeepSpeed ZeRO 0-3
    gradient_checkpointing: bool = False
    compile: bool = False
    cache_features: bool = False     # keep a frozen encoder's features beside the data; for small sets only
    save_every: int = 200            # steps between checkpoints
    keep_checkpoints: int = 1        # newest checkpoints that are kept; 1 alone serves going on, and goes with the end
    log_every: int = 10              # steps between log lines
    time_minutes: float = 0.0        # wall-clock limit of an attempt; 0: the site's, on this machine none
    signal_seconds: float = 60.0     # before that limit, to save and requeue (on Slurm the profile says it)
    memory_gb: float = 0.0           # per rank; 0: the site's share
    stage_to: str = ""               # a node's own disk, e.g. $TMPDIR, to copy the shards to (core.staging); "": not

    def __post_init__(self) -> None:
        require("runtime.", self, nodes=1, ranks_per_node=1, threads=1, workers=0, micro_batch=1,
                zero_stage=(0, 1, 2, 3), save_every=1, keep_checkpoints=0, log_every=1, time_minutes=0,
                signal_seconds=0, memory_gb=0)


@dataclass
class Validation:
    """A look at items that are not trained on, at intervals; see `core.validation`. It changes nothing."""

    every: int = 0                   # steps, and the last one; a multiple of runtime.log_every; 0: not
    data: str = ""                   # an evaluation subset, e.g. data="emoji-eu", subset="eval-dev"
    subset: str = ""
    task: str = ""                   # of the subset's task names; empty: all
    items: int = 64                  # of each task name
    shown: int = 4                   # items whose answers and images TensorBoard shows
    max_new_tokens: int = 16

    def __post_init__(self) -> None:
        require("runtime.validation.", self, every=0, items=1, shown=0, max_new_tokens=1)


@dataclass
class TrainRuntime(Runtime):
    validation: Validation = field(default_factory=Validation)


@dataclass
class Model:
    """Which parts make the model. A name is a folder below `runtime.models_root`; "parent:ROLE" is a run's product."""

    vision: str = "parent:encoder"
    backbone: str = "parent:backbone"
    connector: str = "linear"        # linear (the paper's) | mlp2x_gelu (LLaVA-1.5's)
    vision_layer: int = -2           # hidden state that the connector reads
    vision_select: str = "default"   # default: patches without CLS | full: every token (SigLIP, LeViT)
    standardise: bool = False        # fold a per-channel standardisation of the features into the connector

    def __post_init__(self) -> None:
        require("model.", self, connector=("linear", "mlp2x_gelu"), vision_select=("default", "full"))


@dataclass
class LearningRate:
    connector: float = 1e-3
    backbone: float = 2e-5
    vision: float = 0.0


@dataclass
class Train:
    trained: list[str] = field(default_factory=lambda: ["connector"])  # of vision, connector, backbone
    lora_rank: int = 0               # above 0: adapters of this rank are trained in place of the backbone's weights
    global_batch: int = 8            # packs per optimiser step, over all ranks
    lr: LearningRate = field(default_factory=LearningRate)
    warmup: float = 0.03             # share of the steps
    schedule: str = "cosine"         # cosine | constant
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip: float = 1.0                # global gradient norm
    dtype: str = "bfloat16"          # bfloat16 | float32
    skip_bad_steps: int = 10         # steps with a non-finite loss or norm that are skipped before the run stops
    seed: int = 0                    # initialisation

    def __post_init__(self) -> None:
        require("train.", self, lora_rank=0, global_batch=1, schedule=("cosine", "constant"), weight_decay=0, clip=0,
                dtype=("bfloat16", "float32"), skip_bad_steps=0)
        require_share("train.warmup", self.warmup)
        if not self.trained or not set(self.trained) <= set(NAMES):
            raise UserError(f"train.trained is {self.trained}: name at least one of {', '.join(NAMES)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"train.betas is {self.betas}: give two numbers from 0 up to, not including, 1")
        for part in self.trained:
            if not getattr(self.lr, part) > 0:
                raise UserError(f"train.lr.{part} is {getattr(self.lr, part)}: give it a rate above 0, or take {part} "
                                "out of train.trained")


@dataclass
class Tokenizer:
    """A byte-level BPE trained on text-only subsets, with a Llama-3 style chat template (miniature only)."""

    vocabulary: int = 4096
    sources: list[Source] = field(default_factory=list)
    target_share: float = 0.1        # of the characters it is trained on
    characters: int = 4_000_000

    def __post_init__(self) -> None:
        require("tokenizer.", self, vocabulary=1, characters=1)
        require_share("tokenizer.target_share", self.target_share)


@dataclass
class BackboneConfig:
    """Stage `backbone`: a small Llama from scratch, or (`initial` = "parent:initial") one that goes on from another."""

    initial: str = ""
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    layers: int = 4
    hidden: int = 128
    heads: int = 4
    intermediate: int = 384
    initializer_range: float = 0.06  # transformers' 0.02 is made for widths in the thousands; a narrow model stalls
    mixture: Mixture = field(default_factory=Mixture)
    pack: Pack = field(default_factory=Pack)
    train: Train = field(default_factory=Train)
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        require("", self, layers=1, hidden=1, heads=1, intermediate=1, initializer_range=0)
        if self.hidden % self.heads:
            raise UserError(f"hidden is {self.hidden}: it must be a multiple of heads, {self.heads}")


@dataclass
class EncoderConfig:
    """Stage `encoder`: a vision tower trained contrastively on (image, English name), as CLIP was."""

    sources: list[Source] = field(default_factory=list)   # the first names the images, further ones add phrases
    evaluate: list[Source] = field(default_factory=list)  # zero-shot accuracy on these at the end
    language: str = "en"
    image_size: int = 48
    hidden: int = 192
    depth: int = 2                   # attention blocks before the subsampling to 4 tokens
    epochs: int = 30
    batch: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    phrases: float = 0.5             # weight of the loss on a random phrase (keyword) beside that on the name
    augment: float = 0.5             # strength; 0 only mirrors
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        require("", self, image_size=1, hidden=1, depth=1, epochs=1, batch=1, lr=0, weight_decay=0, label_smoothing=0,
                phrases=0, augment=0)


@dataclass
class FinetuneConfig:
    """Stages `align` (connector only) and `finetune` (connector and backbone)."""

    model: Model = field(default_factory=Model)
    mixture: Mixture = field(default_factory=Mixture)
    pack: Pack = field(default_factory=Pack)
    train: Train = field(default_factory=Train)
    runtime: TrainRuntime = field(default_factory=TrainRuntime)


@dataclass
class Task:
    """One subset of evaluation items, e.g. data="emoji-eu", subset="eval-emojione"."""

    data: str = ""
    subset: str = ""
    tasks: list[str] = field(default_factory=list)  # of the subset's task names; none named means all
    limit: int = 0                   # items per task name and language; 0 means all


@dataclass
class EvaluateConfig:
    model: str = "parent:finetune"   # "parent:ROLE", or an exported folder below `runtime.models_root`
    tasks: list[Task] = field(default_factory=list)
    languages: list[str] = field(default_factory=lambda: ["en", "eu"])
    calibrate: bool = True           # also score every option on blank images ...
    blanks: int = field(default=1, metadata={"omit_if_default": True})  # ... so many: core.examiner.BLANKS
    generate: bool = True            # also ask the items that want a free answer
    max_new_tokens: int = 24
    unit: int = 128                  # items that are worked through and saved together
    batch: int = 64                  # sequences per forward pass
    dtype: str = "float32"           # float32 | bfloat16
    runtime: Runtime = field(default_factory=Runtime)

    def __post_init__(self) -> None:
        require("", self, blanks=1, max_new_tokens=1, unit=1, batch=1, dtype=("float32", "bfloat16"))
        if not self.languages:
            raise UserError("languages is empty: name at least one, as en")


@dataclass
class Engine:
    """One translation engine; see `data_tools.engines`."""

    kind: str = "marian"             # marian: a local seq2seq folder | llm: an OpenAI-compatible endpoint | apertium |
                                     # dictionary
    model: str = ""                  # folder below `runtime.models_root` or "parent:ROLE", the endpoint's model, a pair
                                     # such as eu-en (apertium), or a JSON file of words
    prompt: str = "llm-1"            # llm: file of `data_tools/engines_prompts`; a changed prompt gets a new name
    temperature: float = 0.0         # llm
    beams: int = 1                   # marian
    batch_tokens: int = 4096         # marian: source tokens of a batch, padding included
    characters: int = 2000           # longest piece that is sent in one go; longer texts are cut at sentences


@dataclass
class TranslateRuntime(Runtime):
    endpoint: str = ""               # llm: the server's address, up to and with /v1
    requests: int = 8                # llm: at the same time
    timeout: float = 120.0           # llm: seconds for one answer
    tries: int = 6                   # llm: for one text, with growing pauses
    device: str = "auto"             # marian: auto | cpu | cuda


@dataclass
class TranslateConfig:
    """Stage `data_tools.translate:translate`: one chunk of a data set's texts, each text once."""

    data: str = ""
    subsets: list[str] = field(default_factory=list)     # empty: all
    source_language: str = "en"
    target_language: str = "eu"
    where: str = "missing"           # records whose target language is missing | present (replaced) | all
    chunk: int = 0                   # of `chunks`; which texts it holds follows from their own hash
    chunks: int = 1
    engines: list[Engine] = field(default_factory=lambda: [Engine()])    # the next one gets what gates rejected
    gates: dict[str, Any] = field(default_factory=dict)  # entries that replace those of data_tools/quality.yaml
    back: list[Engine] = field(default_factory=list, metadata={"omit_if_default": True})  # the first translates back,
                                     # for the gate `round trip`
    block: int = 256                 # texts that are written at once: what a stopped run loses at most
    runtime: TranslateRuntime = field(default_factory=TranslateRuntime)


@dataclass
class TranslatorConfig:
    """Stage `data_tools.translator:translator`: a small Marian model trained on parallel text (miniature only)."""

    sources: list[Source] = field(default_factory=list)  # text-only subsets with both languages side by side
    apart: list[Source] = field(default_factory=list)    # image subsets whose answers are measured on, never learned
    source_language: str = "en"
    target_language: str = "eu"
    held_out: float = 0.03           # share of the records
    characters: int = 160            # longer sentences are left out
    vocabulary: int = 4096
    layers: int = 3                  # of the encoder and of the decoder
    hidden: int = 256
    heads: int = 4
    dropout: float = 0.1
    epochs: int = 6
    batch_tokens: int = 2048         # on the longer side, padding included
    lr: float = 1e-3
    seed: int = 0
    runtime: Runtime = field(default_factory=Runtime)


@dataclass
class DownloadRuntime(Runtime):
    connections: int = 256           # open at the same time
    per_host: int = 8                # of them to one host


@dataclass
class DownloadConfig:
    """Stage `data_tools.download:download`: one chunk of a list of image URLs."""

    list: str = ""                   # file, folder or hub id with a row per image
    split: str = "train"
    url_field: str = "url"
    id_field: str = "id"             # empty: the row's number
    out: str = "images"              # folder below `runtime.data_root`
    chunk: int = 0                   # of `chunks`; which URLs it holds follows from their own hash
    chunks: int = 1
    block: int = 5000                # URLs per tar
    side: int = 512                  # longer side in pixels that larger images are reduced to; 0: as they are
    least_side: int = 16             # smaller images are not kept
    most_bytes: int = 20_000_000
    timeout: float = 20.0            # seconds for one image
    tries: int = 3
    pause: float = 1.0               # seconds before the second try, doubled before each further one
    user_agent: str = "begira (research; images of public data sets)"
    runtime: DownloadRuntime = field(default_factory=DownloadRuntime)


SCHEMAS: dict[str, type] = {
    "core.encoder:encoder": EncoderConfig,
    "core.backbone:backbone": BackboneConfig,
    "core.train:align": FinetuneConfig,
    "core.train:finetune": FinetuneConfig,
    "core.evaluate:evaluate": EvaluateConfig,
    "data_tools.translate:translate": TranslateConfig,
    "data_tools.translator:translator": TranslatorConfig,
    "data_tools.download:download": DownloadConfig,
}


def resolve(function: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The complete configuration of a stage function as plain data, defaults filled in; without a schema as given, but
    for a look at its `runtime`."""
    from omegaconf import OmegaConf

    schema = SCHEMAS.get(function)
    if schema is None:
        runtime = values.get("runtime") or {}
        if not isinstance(runtime, Mapping):
            raise UserError(f"runtime is {runtime!r}: give a mapping such as {{nodes: 2}}")
        structured(Runtime, {key: value for key, value in runtime.items() if key in hints(Runtime)})
        return OmegaConf.to_container(OmegaConf.create(dict(values)), resolve=True)  # type: ignore[return-value]
    return asdict(structured(schema, values))


def check_ranges(function: str, values: Mapping[str, Any]) -> None:
    """UserError for a value out of range in a complete configuration, as `resolve` gives it, with other values of the
    same types laid in."""
    if function in SCHEMAS:
        rebuilt(SCHEMAS[function], values)
