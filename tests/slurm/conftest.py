"""One Slurm of four nodes for all tests here, and a desk in front of it. Skipped without Slurm."""
from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.cluster.cluster import Cluster, missing_programs, template
from tests.cluster.configuration import Options
from tests.slurm.desk import Desk


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.fspath).parents:
            item.add_marker(pytest.mark.slurm)


def start(**options):
    """A cluster of one's own, for what the shared one is not set up for."""
    if missing_programs():
        pytest.skip("no Slurm on this machine: python -m tests.cluster install")
    chosen = Options(**{"owner": os.getpid(), "template": template(), **options})
    return Cluster.launch(tempfile.mkdtemp(prefix="bsc"), chosen)


@pytest.fixture(scope="session")
def shared():
    cluster = start()
    yield cluster
    cluster.stop()


@pytest.fixture
def desk(shared, tmp_path):
    """A folder for runs, and the shared cluster bound to this process."""
    with Desk(shared, tmp_path) as found:
        yield found
