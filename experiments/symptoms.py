"""Words that tell why an attempt ended, the same whether a rank raises them or its log is all that is left of it.

The first that fits decides. Causes are those of `experiments.state.CAUSES`. Not here: what only Slurm says of a job
(`slurm.triage`), and what means something in an exception but may be a passing remark in a log (`execute.classify`)."""
from __future__ import annotations

import re

SYMPTOMS = (
    ("memory_gpu", r"(?:CUDA|HIP) out of memory|CUDA (?:driver )?error: out of memory|torch\.OutOfMemoryError"
                   r"|CUBLAS_STATUS_ALLOC_FAILED"),
    ("disk_full", r"No space left on device|Disk quota exceeded"),
    ("node_failure", r"uncorrectable ECC|NVRM: Xid|unspecified launch failure|CUDA error: ECC"),
    ("rendezvous", r"Address already in use|client socket has timed out|Timed out waiting for clients|connectFullMesh"
                   r"|rank 0 of \w+ \S+ did not (?:say|begin) within"),
    ("asset", r"LocalEntryNotFoundError|OfflineModeIsEnabled|RepositoryNotFoundError"),
)


def symptom(text: str, known: tuple[tuple[str, str], ...] = SYMPTOMS) -> tuple[str, str] | None:
    """(cause, the words that tell it); None where the text holds none that are known."""
    for cause, pattern in known:
        if match := re.search(pattern, text):
            return cause, match[0]
    return None
