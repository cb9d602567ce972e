"""`begira data build NAME`: finds the builder (the emoji set, or a source of `sources/`), checks its options, and does
nothing where the result stands already.

Progress goes to standard error; what was done comes back as plain data.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config import structured
from core.errors import UserError
from core.files import read_json

NAMES = ("emoji",)
# code and data that decide the samples: a change in one of them makes a data set be built anew (seconds, from cache)
RECIPE_FILES = ("packages.yaml", "concepts.py", "dataset.py", "emoji.py", "icons.py", "shards.py", "text_only.py",
                "texts.py", "prompts/__init__.py")


def build(name: str, out: Path | str | None = None, lang: str = "eu",
          overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Build data set `name` for target language `lang` in `out` (default: <data root>/<name>-<lang>).

    Returns {"path", "state": "built" | "unchanged", "manifest", "seconds"}. Raises UserError for an unknown name or
    option, and whatever the builder finds wrong."""
    from data_tools import emoji, sources

    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", lang):
        raise UserError(f"--lang {lang} is no language code: give one such as eu, cy or pt-BR")
    if name not in NAMES and name not in sources.names():
        raise UserError(f"unknown data set '{name}': `begira data build` knows {', '.join((*NAMES, *sources.names()))}")
    builder: Any = emoji if name in NAMES else sources
    options = structured(builder.Options, overrides or {})
    out = Path(out) if out else Path(os.environ.get("BEGIRA_DATA") or "data") / f"{name}-{lang}"
    if lang == options.base:
        raise UserError(f"--lang {lang} is the base language itself: choose another one, e.g. eu or cy")
    recipe = _recipe(name, lang, options) if name in NAMES else sources.recipe(name, lang, options)
    started = time.monotonic()
    manifest = read_json(out / "manifest.json")
    if manifest and manifest.get("recipe") == recipe and _complete(out, manifest):
        return {"path": str(out), "state": "unchanged", "manifest": manifest, "seconds": time.monotonic() - started}
    with _progress(f"{name}-{lang}") as (say, progress):
        if name in NAMES:
            manifest = emoji.build(out, lang, options, recipe, say, progress)
        else:
            manifest = sources.build(name, out, lang, options, recipe, say)
    return {"path": str(out), "state": "built", "manifest": manifest, "seconds": time.monotonic() - started}


def _recipe(name: str, lang: str, options: Any) -> str:
    """Hash of everything that decides the result: options, package pins, prompts, the builder's own code."""
    from data_tools import prompts

    chosen = {k: v for k, v in dataclasses.asdict(options).items() if k != "processes"}
    asked = [prompts.read(language) for language in (options.base, lang)]
    digest = hashlib.sha256(json.dumps([name, lang, chosen, asked], sort_keys=True).encode())
    for file in RECIPE_FILES:
        digest.update((Path(__file__).parent / file).read_bytes())
    return digest.hexdigest()


def _complete(out: Path, manifest: Mapping[str, Any]) -> bool:
    """Every shard is there in its size, with its index; `begira data check` looks inside."""
    for subset in manifest["subsets"].values():
        for shard in subset["shards"]:
            file = out / shard["file"]
            if not file.exists() or file.stat().st_size != shard["bytes"] or not (out / shard["index"]).exists():
                return False
    return True


class _progress:
    """A bar on standard error: `say(text)` names the step, `progress(done, of)` moves the bar."""

    def __init__(self, title: str):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(file=sys.stderr)  # a file gets no bar, nor the empty line that would end it
        self.bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), TimeElapsedColumn(),
                            console=console, transient=True, disable=not console.is_terminal)
        self.title = title

    def __enter__(self) -> Any:
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=None)
        return self._say, self._advance

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def _say(self, text: str) -> None:
        self.bar.update(self.task, description=f"{self.title}: {text}", total=None)

    def _advance(self, done: int, of: int) -> None:
        self.bar.update(self.task, completed=done, total=of)
