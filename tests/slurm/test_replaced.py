"""Jobs that others replace, and arrays that Slurm refuses half-way: nothing is lost, and nothing looks like a person's
cancel."""
import os
from dataclasses import replace

import pytest

from core.errors import UserError
from experiments import store
from experiments.state import Where
from slurm import observe, submissions, submit
from slurm.arrays import Array, Reference
from slurm.profile import load
from slurm.queue import SLURM, Queue
from slurm.resources import request
from tests.cluster.cluster import REPOSITORY


def arrays_of(desk, grid):
    """An array for each run of a chain of two, the second behind the first, and where their directories are."""
    profile, (first, second) = load("virtual"), desk.study(grid).runs
    wanted = request(profile, first.runtime)
    arrays = [Array(first.stage, wanted, [first]), Array(second.stage, wanted, [second], [Reference(first.id, 0, 0)])]
    return arrays, {run.id: store.create(run, {}) for run in (first, second)}


def refused(array):
    return replace(array, request=replace(array.request, partition="nosuch"), after=[])


@pytest.fixture
def behind(desk, request):
    """A grid of a child that is queued behind its parent, which runs; and the child's job."""
    grid = desk.grid(request.function.__name__[5:20], {
        "align": {"steps": 150, "delay": 0.1}, "finetune": {"parents": {"align": "align"}}})
    desk.submit(grid)
    desk.until(desk.beat(desk.path(grid, "align"), 2), 60, lambda: desk.describe(grid))
    return grid, job_of(desk, grid)


def job_of(desk, grid):
    return next(row.job for row in desk.look(grid).rows() if row.stage == "finetune")


def study_of(desk, grid):
    return store.study_path(desk.study(grid).name)


def test_refused_successors_leave_nothing_cancelled(desk, behind):
    grid, job = behind
    arrays, paths = arrays_of(desk, grid)
    with pytest.raises(UserError, match="Slurm refused finetune"):
        submit.submit(study_of(desk, grid), [refused(arrays[1])], paths, load("virtual"), REPOSITORY, replaced=[job])
    assert desk.states(grid)["finetune"] == "planned"
    assert desk.submit(grid) == 0 and job_of(desk, grid) != job
    assert set(desk.wait(grid).values()) == {"done"}, desk.describe(grid)


def test_what_a_killed_submitter_withdrew_is_submitted_anew(desk, behind):
    grid, job = behind
    submissions.withdraw(study_of(desk, grid), [job])
    assert desk.states(grid)["finetune"] == "queued"
    assert desk.submit(grid) == 0 and job_of(desk, grid) != job
    desk.until(lambda: "CANCELLED" in desk.cluster.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T"), 20)
    assert set(desk.wait(grid).values()) == {"done"}, desk.describe(grid)


def test_a_persons_scancel_stays(desk, behind):
    """The control: the same end of the same job without our note."""
    grid, job = behind
    desk.cluster.run("scancel", job)
    desk.until(lambda: desk.states(grid)["finetune"] == "cancelled", 20, lambda: desk.describe(grid))


@pytest.mark.parametrize("cancelled", ["finetune", "align"])
def test_what_squeue_has_forgotten_accounting_tells(desk, behind, cancelled):
    """Also of a job that never came to wait for anything but its parents: who cancelled it, a person or Slurm."""
    grid, job = behind
    desk.cluster.run("scancel", job if cancelled == "finetune" else desk.job(desk.path(grid, "align")))
    desk.until(lambda: "CANCELLED" in desk.rows(job), 30, lambda: desk.describe(grid))
    run = store.read_run(desk.path(grid, "finetune"))
    seen, queue = observe.observe(study_of(desk, grid), [run], Queue())
    assert queue.jobs[job].state == "CANCELLED"
    assert queue.jobs[job].by == (str(os.getuid()) if cancelled == "finetune" else SLURM)
    assert cancelled == "finetune" or seen[run.id].where is Where.ABSENT


def test_arrays_before_a_refused_one_go(desk):
    grid = desk.grid("halfway", {"align": {"steps": 1}, "finetune": {"parents": {"align": "align"}}})
    arrays, paths = arrays_of(desk, grid)
    with pytest.raises(UserError, match="Slurm refused finetune"):
        submit.submit(study_of(desk, grid), [arrays[0], refused(arrays[1])], paths, load("virtual"), REPOSITORY)
    assert [one.state for one in submissions.read(study_of(desk, grid))] == ["released"]
    desk.until(lambda: desk.states(grid)["align"] == "done", 60, lambda: desk.describe(grid))
