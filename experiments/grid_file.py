"""Grid files on disk: where one is found, how it is read, what `inherit` makes of two. Meaning: experiments.grid."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from core.errors import UserError
from experiments.grid_shape import SHARED, check_document
from experiments.words import nearest, one_of

GRIDS = Path(__file__).resolve().parent / "grids"
CONFIGS = Path(__file__).resolve().parent / "configs"


def find(reference: str | Path) -> Path:
    """Where a grid's file is."""
    given = Path(reference)
    if given.suffix in (".yaml", ".yml"):
        if given.is_file():
            return given.resolve()
        raise UserError(f"no grid file {given}: give a path that exists or a name from {', '.join(names())}")
    path = GRIDS / f"{reference}.yaml"
    if path.is_file():
        return path
    raise UserError(f"no grid '{reference}': {nearest(str(reference), names())}, or give the path of a YAML file")


def names() -> list[str]:
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def merged(below: Any, above: Any) -> Any:
    """`above` laid over `below`: mappings key by key, everything else replaced."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}
    return deepcopy(above)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with interpolations left as text (OmegaConf's reader: 1e-3 is a number)."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {getattr(error, 'full_key', '')}: {str(error).splitlines()[0]}") from error
    except OSError as error:
        if error.errno:
            raise
        loaded = None  # a lone number, say: what OmegaConf says of it names no file
    if not isinstance(loaded, dict):
        raise UserError(f"{path} must hold a mapping")
    return loaded


def resolved(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    """With `${...}` filled in. Raises UserError, naming the place, for one that cannot be."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(dict(values)), resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from error


def document_of(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file laid over what it inherits."""
    if path in seen:
        raise UserError(f"{path.name} inherits itself: {' -> '.join(p.name for p in (*seen, path))}")
    own = read_yaml(path)
    try:
        check_document(own)
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    for stage in (own.get("stages") or {}).values():
        if stage and "config" in stage:
            stage["config"] = [_resolved_entry(entry, path) for entry in listed(stage["config"])]
    if "inherit" not in own:
        return own
    below = document_of(find(_beside(own["inherit"], path)), (*seen, path))
    _check_shared(own, below, path)
    name = own.get("name") or path.stem
    result = {**merged(below, {k: v for k, v in own.items() if k not in ("stages", "axes")}), "name": name}
    result["stages"] = {**(below.get("stages") or {})}
    for key, stage in (own.get("stages") or {}).items():
        base = result["stages"].get(key) or {}
        result["stages"][key] = stage if stage is None else {
            **merged(base, {k: v for k, v in stage.items() if k != "config"}),
            "config": [*listed(base.get("config")), *listed(stage.get("config"))]}
    result["axes"] = {**(below.get("axes") or {})}
    for key, axis in (own.get("axes") or {}).items():
        result["axes"][key] = _inherited_axis(result["axes"].get(key), axis, key)
    return result


def _check_shared(own: Mapping[str, Any], below: Mapping[str, Any], path: Path) -> None:
    """A shared value that the inherited grid lacks is for something in this one; else it is a slip, and what it was
    meant to replace would be read in silence."""
    entries = [entry for stage in (own.get("stages") or {}).values() if stage for entry in listed(stage.get("config"))]
    said = json.dumps([own, *(read_yaml(CONFIGS / entry) for entry in entries if isinstance(entry, str))], default=str)
    for part in SHARED:
        for key in own.get(part) or {}:
            inherited = below.get(part) or {}
            if key not in inherited and not re.search(rf"\$\{{\s*{part}\.{re.escape(str(key))}\b", said):
                raise UserError(f"{path.name}: nothing reads {part}.{key}: {nearest(str(key), inherited)}")


def _inherited_axis(below: Any, above: Any, name: str) -> Any:
    """A list of labels picks among named values; a mapping adds to them; anything else replaces."""
    if above is None or below is None:
        return above
    below = below if isinstance(below, Mapping) and "values" in below else {"values": below}
    above = above if isinstance(above, Mapping) and "values" in above else {"values": above}
    result = merged(below, {key: value for key, value in above.items() if key != "values"})
    old, new = below["values"], above["values"]
    if isinstance(old, Mapping) and isinstance(new, list):
        for label in new:
            one_of(label, old, f"axes.{name}: no value")
        result["values"] = {label: old[label] for label in new}
    else:
        result["values"] = merged(old, new)
    return result


def _beside(reference: str, path: Path) -> Path | str:
    """An inherited grid is named, or is a path relative to the file that inherits."""
    if str(reference).endswith((".yaml", ".yml")):
        return path.parent / reference
    neighbour = path.parent / f"{reference}.yaml"
    return neighbour if neighbour.is_file() else reference


def listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _resolved_entry(entry: Any, path: Path) -> Any:
    """A config file's place: beside the grid or below experiments/configs, relative to the latter where possible."""
    if isinstance(entry, Mapping):
        return entry
    for folder in (path.parent, CONFIGS):
        for candidate in (folder / str(entry), folder / f"{entry}.yaml"):
            if candidate.is_file():
                inside = candidate.resolve().is_relative_to(CONFIGS)
                return str(candidate.resolve().relative_to(CONFIGS) if inside else candidate.resolve())
    raise UserError(f"{path.name}: no config file '{entry}' beside it or in experiments/configs")
