"""What was handed to Slurm, on disk: one folder per array, runs/<study>/slurm/<key>/, known before Slurm knows of it.

    submission.json   key, job name, stage, runs in the order of the array's elements, job id, state
    *.pkl  *.sh  *.log      submitit's; each pickle holds one run directory's path

    intent -> submitted (held; the id is known) -> released.  An intent without a job id never ran: Slurm holds what was
    submitted until it is released, so that a submitter may be killed anywhere. Its job is cancelled by its name.

The job name `<study>.<stage>.<mark><key>` is the way back from Slurm to here that every site offers; `mark` stands for
this study's folder, so that two checkouts with a study of the same name do not take each other's jobs."""
from __future__ import annotations

import hashlib
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from core.files import read_json, write_json

KEY = 8                  # hex digits of a key and of a mark
BEGINS = "begira: start "   # a job's log holds one such line per execution, with the number of the restart
KEEP = 7 * 86400.0       # seconds for which the folder of an ended array is kept, for its logs


@dataclass
class Submission:
    key: str
    name: str
    stage: str
    runs: list[str]                       # run ids; element i is runs[i]
    paths: list[str]                      # their directories
    state: str = "intent"                 # intent | submitted | released
    job: str = ""
    created: float = 0.0
    parents: dict[str, dict[str, str]] = field(default_factory=dict)  # run id: {parent's run id: job it waits for}
    withdrawn: list[str] = field(default_factory=list)  # run ids: we cancel their elements, no person did

    def element(self, index: int) -> str:
        """Slurm's id of element `index`; an array of one is a plain job."""
        return f"{self.job}_{index}" if len(self.runs) > 1 else self.job


def folder(study: Path) -> Path:
    return study / "slurm"


def mark(study: Path) -> str:
    return hashlib.sha256(str(study.resolve()).encode()).hexdigest()[:KEY]


def propose(study: Path, stage: str, runs: Sequence[str], paths: Sequence[Path],
            parents: Mapping[str, Mapping[str, str]]) -> Submission:
    """Write the intent to submit these runs as one array."""
    key = uuid.uuid4().hex[:KEY]
    submission = Submission(key, f"{study.name}.{stage}.{mark(study)}{key}", stage, list(runs), [str(p) for p in paths],
                            created=time.time(), parents={k: dict(v) for k, v in parents.items()})
    write(study, submission)
    return submission


def write(study: Path, submission: Submission) -> None:
    write_json(folder(study) / submission.key / "submission.json", asdict(submission))


def withdraw(study: Path, jobs: Sequence[str]) -> None:
    """Note that we cancel these elements ourselves: from then on their end is as if they had not been submitted."""
    for one in read(study):
        ours = [run for index, run in enumerate(one.runs) if one.element(index) in jobs and run not in one.withdrawn]
        if ours:
            write(study, replace(one, withdrawn=[*one.withdrawn, *ours]))


def read(study: Path) -> list[Submission]:
    """All that are on disk, oldest first."""
    found = [load(path.parent) for path in folder(study).glob("*/submission.json")]
    return sorted((one for one in found if one), key=lambda one: one.created)


def load(array: Path) -> Submission | None:
    """That of an array's folder; None where it has just been removed. What other versions of begira noted is left."""
    values: dict[str, Any] = read_json(array / "submission.json", {})
    known = {one.name for one in fields(Submission)}
    return Submission(**{key: value for key, value in values.items() if key in known}) if values else None


def remove(study: Path, submission: Submission) -> None:
    shutil.rmtree(folder(study) / submission.key, ignore_errors=True)


def key_of(study: Path, job_name: str) -> str | None:
    """The key of a job of this study by its name, None for any other job."""
    match = re.fullmatch(rf".*\.{mark(study)}([0-9a-f]{{{KEY}}})", job_name)
    return match[1] if match else None


def newest(submissions: Sequence[Submission]) -> dict[str, tuple[Submission, int]]:
    """{run id: (its newest array that has a job id, its index there)}."""
    result: dict[str, tuple[Submission, int]] = {}
    for one in submissions:
        if one.job:
            result.update({run: (one, index) for index, run in enumerate(one.runs)})
    return result
