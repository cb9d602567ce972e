"""The parts of a model as files: where a part comes from, its hash, and the folder in which a run leaves what it
trained.

    <run>/model/  parts.json  config.json  tokenizer and processor files
                  connector.safetensors  [vision/]  [backbone/]        only what this run trained

A part that was not trained is not copied: parts.json names its source (a run's product or a pretrained folder) and
the sha256 of its weights, and nobody uses it before the hash has been checked. Not here: how parts become one model
(core.assemble). """
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_json, replacing, sha256
from core.run import Run

NAMES = ("vision", "connector", "backbone")
SCHEMA, MANIFEST = 1, "parts.json"
_hashes: dict[tuple[str, int, int], str] = {}  # a weight file is read once per process


@dataclass(frozen=True)
class Source:
    """A folder with weights. `link` is how parts.json names it: {"run": "<stage>/<id>"}, with "part" if it is a part of
    that run's product, or {"model": "<owner>/<name>"}."""

    folder: Path
    link: dict[str, str]


def find(reference: str, part: str, run: Run, models_root: Path | str) -> Source:
    """The folder of `part` that a configuration value names: "parent:ROLE" or a folder below `models_root`.

    A parent that is an align or finetune run gives the part that it was trained with or trained. A run that has a
    parent `align` need not name encoder and backbone again. Raises UserError if there is no such product or
    folder."""
    if not reference.startswith("parent:"):
        return _existing(Source(Path(models_root) / reference, {"model": reference}),
                         "download the model into that folder, or set runtime.models_root")
    role, roles = reference.removeprefix("parent:"), run.spec.get("parents", {})
    parent = run.parent("align" if role not in roles and "align" in roles else role)
    link = {"run": f"{parent.path.parent.name}/{parent.path.name}"}
    remedy = f"run {parent.path.name} has not finished; `begira submit` trains it first"
    if not (parent.path / "model" / MANIFEST).is_file():
        return _existing(Source(parent.path / "model", link), remedy)
    entry = read_manifest(parent.path / "model")["parts"][part]
    if "folder" in entry:
        return _existing(Source(parent.path / "model" / part, {**link, "part": part}), remedy)
    source = Source(resolve(entry["source"], parent.path, models_root), entry["source"])
    check(source.folder, entry["sha256"], part)
    return source


def resolve(link: dict[str, str], run_dir: Path, models_root: Path | str) -> Path:
    """The folder behind a link of parts.json, seen from the run directory `run_dir`."""
    if "model" in link:
        return Path(models_root) / link["model"]
    return run_dir.parent.parent / link["run"] / "model" / link.get("part", "")


def _existing(source: Source, remedy: str) -> Source:
    if not (source.folder / "config.json").is_file():
        raise UserError(f"no model in {source.folder} (no config.json): {remedy}")
    return source


def weights_hash(folder: Path | str) -> str:
    """sha256 over config.json and the weight files of a folder (names and bytes). Independent of where it lies."""
    folder = Path(folder)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin"), folder / "config.json"])
    if len(files) < 2:
        raise UserError(f"no weights in {folder} (*.safetensors or pytorch_model*.bin): restore the folder")
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{_file_hash(file)}\0".encode())
    return total.hexdigest()


def check(folder: Path, expected: str, part: str) -> None:
    """Raise UserError unless the weights of `folder` have the hash under which a run used them."""
    found = weights_hash(folder)
    if found != expected:
        raise UserError(f"the {part} in {folder} is not the one that was trained with (sha256 {found[:12]}, expected "
                        f"{expected[:12]}): restore that folder, or train the run anew")


def read_manifest(model_dir: Path) -> dict[str, Any]:
    """parts.json of a product. Raises UserError if it is missing or of another schema."""
    manifest = read_json(model_dir / MANIFEST)
    if manifest is None:
        raise UserError(f"no trained model in {model_dir} (no {MANIFEST}): the run has not finished or trains none")
    if manifest.get("schema") != SCHEMA:
        raise UserError(f"{model_dir}/parts.json has schema {manifest.get('schema')}, this version reads {SCHEMA}")
    return manifest


def save_tensors(path: Path, tensors: dict[str, Any]) -> str:
    """Write a safetensors file atomically; its sha256."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                  metadata={"format": "pt"})
    return sha256(path)


def load_tensors(path: Path, expected: str | None = None) -> dict[str, Any]:
    """Tensors of a safetensors file, its sha256 checked first if given."""
    from safetensors.torch import load_file

    if expected is not None and _file_hash(path) != expected:
        raise UserError(f"{path} does not have the sha256 of its parts.json: restore it, or train the run anew")
    return load_file(path)


def _file_hash(path: Path) -> str:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: restore it, or train its run anew") from error
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _hashes:
        _hashes[key] = sha256(path)
    return _hashes[key]
