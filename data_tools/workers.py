"""Worker processes that are gone with the process that has started them, by whatever it ends.

Those of the standard library wait for work for good where their owner was killed: each holds the queue open for the
others."""
from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from core.stop import die_with


def workers(count: int) -> ProcessPoolExecutor:
    """As many worker processes (at least one), forked from this one."""
    return ProcessPoolExecutor(max(1, count), multiprocessing.get_context("fork"), die_with, (os.getpid(),))
