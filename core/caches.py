"""Arrays that are computed once and kept beside the data set they were computed from: token lengths, features.

A file that is damaged is made anew. Not here: what is computed, and which file is whose (core.lengths,
core.features)."""
from __future__ import annotations

import errno
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from core.errors import UserError
from core.files import replacing

DAMAGED = (OSError, ValueError, KeyError, EOFError, BadZipFile)     # what numpy raises for half an .npz


def load(path: Path) -> dict[str, np.ndarray] | None:
    """All arrays of a file; None if it is not there or damaged."""
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except DAMAGED:
        return None


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises UserError where nothing may be written beside the data set."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}): make its folder writable, for what is computed "
                        "once stays beside the data, or use a copy of the data set") from error
