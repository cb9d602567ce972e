"""Where a report's numbers come from: code, packages, data with licences and hashes, runs and the table's own hash."""
from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from analysis.samples import data_sets
from analysis.study import Study
from analysis.tables import Cell, Table
from core.files import read_json, sha256

SHOWN = ("torch", "transformers", "deepspeed", "numpy")


def provenance_tables(study: Study, table: Path) -> list[Table]:
    """What was used (code, packages, table), and the sources of the data with their licences."""
    rows = [["score table", f"sha256 {sha256(table)}"], ["runs", f"sha256 over the sorted ids {_runs(study)}"]]
    rows += [[f"data set {found['name']}", f"fingerprint {found['fingerprint']}"]
             for found in data_sets(study) if found.get("fingerprint")]
    environments = [found for run in study.collected.runs if (found := read_json(run.path / "env.json"))]
    rows += [[name, ", ".join(f"{value} ({count} runs)" for value, count in sorted(counted.items()))]
             for name, counted in _counted(environments).items()]
    made = [Table("provenance", "What these numbers were made with", ["what", "which"],
                  [[Cell(text) for text in row] for row in rows], labels=2)]
    sources = [[found["name"], source.get("name"), source.get("version"), source.get("licence"), source.get("origin")]
               for found in data_sets(study) for source in found.get("sources", [])]
    if sources:
        made.append(Table("sources", "Sources of the data, with their licences",
                          ["data set", "source", "version", "licence", "origin"],
                          [[Cell(str(text or "–")) for text in row] for row in sources], labels=5))
    return made


def _runs(study: Study) -> str:
    done = sorted(run.id for run in study.collected.runs if run.done)
    return hashlib.sha256("\n".join(done).encode()).hexdigest()


def _counted(environments: list[dict[str, Any]]) -> dict[str, Counter]:
    """Every commit and version that occurs, with the number of runs that it was used for."""
    counted: dict[str, Counter] = {}
    for one in environments:
        git = one.get("git") or {}
        if git.get("commit"):
            changed = " with uncommitted changes" if git.get("dirty") else ""
            counted.setdefault("code", Counter())[git["commit"][:12] + changed] += 1
        if one.get("python"):
            counted.setdefault("Python", Counter())[one["python"]] += 1
        for name in SHOWN:
            if version := (one.get("packages") or {}).get(name):
                counted.setdefault(name, Counter())[version] += 1
    return counted
