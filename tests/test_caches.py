"""What is computed once beside a data set: halves are made anew, and a place that takes none is named."""
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from core import caches
from core.errors import UserError

ARRAYS = {"a": np.arange(1000), "b": np.array("words")}


@pytest.mark.parametrize("size", [None, 0, 3, 100, 4000, -1])
def test_a_damaged_file_is_as_good_as_none(tmp_path, size):
    path = tmp_path / "lengths.npz"
    assert caches.load(path) is None
    caches.save(path, ARRAYS)
    if size is None:
        found = caches.load(path)
        assert found.keys() == ARRAYS.keys() and np.array_equal(found["a"], ARRAYS["a"]) and str(found["b"]) == "words"
        return
    path.write_bytes(path.read_bytes()[:size])
    assert caches.load(path) is None
    caches.save(path, ARRAYS)
    assert caches.load(path) is not None


def refused(path):
    """As somebody to whom the folder does not belong: root may write anywhere."""
    if os.getuid() == 0:
        os.seteuid(65534)
    with pytest.raises(UserError) as caught:
        caches.save(path, ARRAYS)
    return str(caught.value)


def test_a_data_set_that_may_only_be_read_is_named():
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("fork")) as pool:
        os.chmod(folder, 0o555)
        path = Path(folder) / "lengths.npz"
        assert pool.submit(refused, path).result().startswith(f"{path} cannot be written (Permission denied): make its")
