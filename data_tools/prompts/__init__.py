"""What the emoji data set asks in each language: `<code>.yaml` holds prompts per task, first the one of evaluation.

A language without a file gets prompts made of CLDR's own words in it and of signs, so that no other language slips in:
write its file to have real sentences. The image stands at the end of a prompt, right before the answer.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import UserError

TASKS = ("naming", "keywords", "category")
PLACEHOLDER = "<image>"


def load(language: str, labels: dict[str, str]) -> dict[str, list[str]]:
    """Prompts per task, each ending in the image's placeholder. `labels` are the language's category labels."""
    asked = read(language) or {"naming": ["?"], "keywords": ["# ?"], "category": [" / ".join(labels.values()) + " ?"]}
    missing = [task for task in TASKS if not asked.get(task)]
    if missing:
        raise UserError(f"data_tools/prompts/{language}.yaml lacks prompts for {', '.join(missing)}: add one each")
    return {task: [f"{text}\n{PLACEHOLDER}" for text in asked[task]] for task in TASKS}


def read(language: str) -> dict[str, Any] | None:
    """The language's file as it stands, None if there is none. `categories` in it replaces CLDR's labels."""
    import yaml

    path = Path(__file__).with_name(f"{language}.yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
