"""`begira data check DIR`: reads a whole data set and names everything that is broken. Repairs nothing.

A finding is {"level", "problem", "file", "sample", "detail"}: `level` is "error" (training would stumble or learn
badly) or "note" (unusual, but read correctly: an image that is not RGB or grey). The problems are listed in PROBLEMS.
With `mark`, samples with an error get their `bad` flag in the index, which the loader then passes over.
"""
from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from core.errors import UserError
from core.files import read_json, replacing, sha256
from data_tools.check_sample import record_problems, sample_problems
from data_tools.dataset import SCHEMA, fingerprint
from data_tools.index import Entry, Truncated, scan
from data_tools.shards import id_hash, texts
from data_tools.workers import workers

PROBLEMS = ("manifest", "missing file", "truncated tar", "size", "checksum", "missing index", "stale index",
            "duplicate key", "duplicate id", "missing json", "broken json", "schema", "placeholder", "language missing",
            "missing image", "image without placeholder", "zero-byte image", "undecodable image", "wrong extension",
            "decompression bomb", "image mode")
Finding = dict[str, Any]


def finding(problem: str, file: str, sample: str = "", detail: str = "", level: str = "error") -> Finding:
    return {"level": level, "problem": problem, "file": file, "sample": sample, "detail": detail}


def check(path: Path | str, mark: bool = False, processes: int = 0) -> list[Finding]:
    """Findings of a data set, in order of shard and sample; [] means sound.

    Raises UserError if `path` is no folder or holds neither a usable manifest nor a tar."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder of a data set")
    manifest, findings, jobs = _opened(folder)
    with workers(min(processes or len(os.sched_getaffinity(0)), len(jobs))) as pool:
        shards = list(pool.map(_check_shard, jobs))
    duplicates = _duplicates([(job[1]["file"], *shard[1:]) for job, shard in zip(jobs, shards, strict=True)])
    for job, shard in zip(jobs, shards, strict=True):
        own = [*shard[0], *(d for d in duplicates if d["file"] == job[1]["file"])]
        findings += own
        if mark and manifest is not None:
            _mark(folder / job[1]["index"], {f["sample"] for f in own if f["level"] == "error"})
    return findings


def _opened(folder: Path) -> tuple[dict[str, Any] | None, list[Finding], list[tuple]]:
    """The manifest, what is wrong with it, and one job per shard; without a usable manifest, one per tar."""
    reason = "missing"
    try:
        manifest = read_json(folder / "manifest.json")
        if manifest is not None:
            return manifest, *_plan(folder, manifest)
    except UserError as error:
        reason = str(error)
    except (AttributeError, KeyError, TypeError) as error:  # JSON, but of another shape
        reason = f"not as begira writes it ({type(error).__name__}: {error})"
    tars = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.tar"))
    if not tars:
        raise UserError(f"{folder} holds neither a manifest.json of begira's nor a tar: give the folder of a data set")
    return None, [finding("manifest", "manifest.json", detail=reason)], [(folder, {"file": t}, None, (), ())
                                                                         for t in tars]


def _plan(folder: Path, manifest: dict[str, Any]) -> tuple[list[Finding], list[tuple]]:
    """What is wrong with the manifest itself, and one job per shard that is there."""
    wrong = [f"no field '{f}'" for f in ("schema", "name", "languages", "sources", "subsets", "fingerprint")
             if f not in manifest]
    if manifest.get("schema", SCHEMA) != SCHEMA:
        wrong.append(f"schema {manifest['schema']}, this version reads {SCHEMA}")
    if "fingerprint" in manifest and manifest["fingerprint"] != fingerprint(manifest.get("subsets", {})):
        wrong.append("the fingerprint is not that of the shards it lists")
    wrong += [f"source {s.get('name', number)} has no {f}" for number, s in enumerate(manifest.get("sources", ()))
              for f in ("name", "licence", "origin") if not s.get(f)]
    findings = [finding("manifest", "manifest.json", detail=text) for text in wrong]
    jobs, listed, known = [], set(), manifest.get("languages", [])
    for subset in manifest.get("subsets", {}).values():
        # a subset without a word of a language is meant to be without it (English-only text)
        languages = [lang for lang in known if subset["words"].get(lang)]
        for shard in subset["shards"]:
            listed.add(shard["file"])
            if (folder / shard["file"]).exists():
                jobs.append((folder, shard, subset["kind"], languages, known))
            else:
                findings.append(finding("missing file", shard["file"]))
    unlisted = sorted({p.relative_to(folder).as_posix() for p in folder.rglob("*.tar")} - listed)
    findings += [finding("manifest", name, detail="the manifest does not list this shard") for name in unlisted]
    return findings, jobs


def _check_shard(job: tuple) -> tuple[list[Finding], list[str], np.ndarray]:
    """Findings of one shard, its sample keys, and the hashes of their ids (0 where there is none)."""
    folder, shard, kind, languages, indexed = job
    path, name = folder / shard["file"], shard["file"]
    findings, keys, hashes, rows, cut = [], [], [], [], False
    seen: set[str] = set()
    try:
        with open(path, "rb") as stream:
            for entry in scan(path):
                identity, row, problems = _check_entry(stream, entry, kind, languages, indexed)
                if entry.key in seen or entry.repeated:
                    problems.append(("duplicate key", ", ".join(entry.repeated), "error"))
                seen.add(entry.key)
                keys.append(entry.key)
                hashes.append(identity)
                rows.append(row)
                findings += [finding(problem, name, entry.key, detail, level) for problem, detail, level in problems]
    except Truncated as error:
        cut = True
        findings.append(finding("truncated tar", name, error.key, str(error)))
    if "sha256" in shard and not cut:
        if path.stat().st_size != shard["bytes"]:
            findings.append(finding("size", name, detail=f"{path.stat().st_size} bytes, the manifest says "
                                                         f"{shard['bytes']}"))
        elif sha256(path) != shard["sha256"]:
            findings.append(finding("checksum", name, detail="the bytes are not those that the manifest names"))
    if "index" in shard and not cut:
        findings += _check_index(folder / shard["index"], shard, rows, indexed)
    return findings, keys, np.array(hashes, dtype=np.uint64)


def _check_entry(stream: Any, entry: Entry, kind: str | None, languages: Iterable[str],
                 indexed: Iterable[str]) -> tuple[int, tuple, list]:
    def read(extension: str) -> bytes:
        stream.seek(entry.members[extension][0])
        return stream.read(entry.members[extension][1])

    image = entry.image
    record, problems = record_problems(read("json") if "json" in entry.members else None, kind, list(languages))
    problems += sample_problems(record, image, read(image) if image else None, kind)
    identity = id_hash(record["id"]) if record and isinstance(record.get("id"), str) else 0
    chars = []
    for language in indexed:
        try:
            parts = texts(record, language) if record else None
            chars.append(-1 if parts is None else sum(map(len, parts)))
        except (AttributeError, KeyError, TypeError):
            chars.append(-1)
    row = (entry.key.encode(), *entry.members.get("json", (0, 0)), *entry.members.get(image or "", (0, 0)), *chars)
    return identity, row, problems


def _check_index(path: Path, shard: dict[str, Any], rows: list[tuple], languages: Iterable[str]) -> list[Finding]:
    if not path.exists():
        return [finding("missing index", shard["index"])]
    fields = ["key", "json_offset", "json_size", "image_offset", "image_size", *(f"chars_{lang}" for lang in languages)]
    try:
        with np.load(path) as stored:
            columns = [stored[f].tolist() for f in fields]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        return [finding("stale index", shard["index"], detail=f"unreadable: {error}")]
    if not len(columns[0]) == len(rows) == shard["samples"]:
        return [finding("stale index", shard["index"], detail=f"{len(columns[0])} rows, {len(rows)} samples in the tar,"
                                                              f" {shard['samples']} in the manifest")]
    wrong = [row for row, stored in zip(rows, zip(*columns, strict=True), strict=True) if row != stored]
    return [finding("stale index", shard["index"], wrong[0][0].decode(), f"{len(wrong)} rows differ from the tar")
            ] if wrong else []


def _duplicates(shards: list[tuple[str, list[str], np.ndarray]]) -> list[Finding]:
    """Every sample whose id stood before, in this shard or an earlier one."""
    if not shards:
        return []
    hashes = np.concatenate([h for _, _, h in shards])
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    repeats = order[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)]
    starts = np.cumsum([0, *(len(h) for _, _, h in shards)])
    found = []
    for position in np.sort(repeats):
        shard = int(np.searchsorted(starts, position, side="right")) - 1
        found.append(finding("duplicate id", shards[shard][0], shards[shard][1][position - starts[shard]]))
    return found


def _mark(index: Path, keys: set[str]) -> None:
    with np.load(index) as stored:
        arrays = {name: stored[name] for name in stored}
    arrays["bad"] = np.isin(arrays["key"], [k.encode() for k in keys]).astype("u1")
    with replacing(index) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
