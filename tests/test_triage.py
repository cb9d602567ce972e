"""Why an attempt ended, told from evidence alone, in the order in which evidence is to be trusted."""
import pytest

from core.errors import UserError
from core.run import Run
from experiments import execute
from experiments.state import CAUSES
from slurm import job
from slurm.triage import Evidence, triage

RANK = {"rank": 3, "node": "n2", "type": "ValueError", "message": "bad", "cause": "code"}
LOST = {"rank": 0, "node": "n1", "type": "RuntimeError", "message": "Connection closed by peer", "cause": "rendezvous"}


@pytest.mark.parametrize("evidence, cause", [
    (Evidence(exit_code=1, failure=RANK), "code"),
    (Evidence("FAILED", 137, 9, failure=RANK, log="slurmstepd: error: exceeded memory limit"), "code"),
    (Evidence(exit_code=1, failure={**RANK, "cause": "nan"}), "nan"),
    (Evidence(exit_code=137, exit_signal=9, hang={"step": 7, "waited": 31.0, "node": "n1"}), "hang"),
    (Evidence(exit_code=137, exit_signal=9, log="error: StepId=1.0 exceeded memory limit (2 > 1)"), "memory_host"),
    (Evidence("OUT_OF_MEMORY", 0, 125), "memory_host"),
    (Evidence(exit_code=1, failure=LOST, log="Detected 1 oom_kill event in StepId=3.0"), "memory_host"),
    (Evidence(exit_code=1, failure=LOST), "rendezvous"),
    (Evidence(exit_code=1, log="torch.OutOfMemoryError: CUDA out of memory. Tried"), "memory_gpu"),
    (Evidence(exit_code=1, log="OSError: [Errno 122] Disk quota exceeded"), "disk_full"),
    (Evidence(exit_code=1, log="CUDA error: uncorrectable ECC error encountered"), "node_failure"),
    (Evidence(exit_code=1, log="RuntimeError: CUDA error: unspecified launch failure"), "node_failure"),
    (Evidence(exit_code=1, log="NCCL INFO Bootstrap\nModuleNotFoundError: No module named 'x'"), "code"),
    (Evidence(exit_code=1, log="OSError: [Errno 98] Address already in use"), "rendezvous"),
    (Evidence("NODE_FAIL"), "node_failure"),
    (Evidence("TIMEOUT", 0, 15), "time_limit"),
    (Evidence(exit_code=143, log="slurmstepd: error: *** STEP 4.0 CANCELLED AT DUE TO TIME LIMIT ***"), "time_limit"),
    (Evidence("PREEMPTED", 0, 15), "preempted"),
    (Evidence(exit_code=143, log="error: *** JOB 1 ON n1 CANCELLED AT 2026-11-23T16:03:39 ***"), "cancelled"),
    (Evidence(exit_code=137, exit_signal=9, log="error: *** STEP 5.0 ON n1 CANCELLED AT 2026-11-23T16:10:47 ***"),
     "killed"),
    (Evidence(exit_code=143, log="error: *** JOB 2 ON n1 CANCELLED AT 2026-11-23T16:03:40 DUE TO PREEMPTION ***"),
     "preempted"),
    (Evidence(exit_code=0, log="srun: error: Node failure on n1"), "node_failure"),
    (Evidence("CANCELLED by 1000"), "cancelled"),
    (Evidence(exit_code=140, exit_signal=12, listening=False), "preempted"),
    (Evidence(exit_code=137, exit_signal=9), "killed"),
    (Evidence(exit_code=139, exit_signal=11), "unknown"),
    (Evidence(exit_code=1, log="ModuleNotFoundError: No module named 'deepspeed'"), "code"),
    (Evidence(exit_code=2), "user"),
    (Evidence(exit_code=7), "unknown"),
    (Evidence(), "unknown"),
])
def test_cause(evidence, cause):
    verdict = triage(evidence)
    assert verdict.cause == cause and verdict.cause in CAUSES
    assert verdict.reason and "\n" not in verdict.reason


def test_culprit_is_named():
    verdict = triage(Evidence(exit_code=1, failure=RANK))
    assert (verdict.node, verdict.rank) == ("n2", 3) and "ValueError: bad" in verdict.reason


@pytest.mark.parametrize("nodes, blamed", [("n1", "n1"), ("n[1-2]", "")])
def test_a_hang_blames_its_node_only_where_there_is_no_other(nodes, blamed):
    assert triage(Evidence(nodes=nodes, hang={"step": 7, "waited": 31.0, "node": "n1"})).node == blamed


@pytest.mark.parametrize("wait", [
    lambda run: job.meet(run, job.Place("7", "7.0", 1, 1, 2, 2, "n1", ("n1",))),
    lambda run: execute._wait_for_attempt(Run(run))])
def test_ranks_that_wait_in_vain_for_the_first_one_did_not_meet(tmp_path, monkeypatch, wait):
    """As their log has it: they have not begun an attempt and leave no record."""
    monkeypatch.setattr(job, "MEET_SECONDS", 0.1)
    monkeypatch.setattr(execute, "WAIT_FOR_RANK_0", 0.1)
    monkeypatch.setenv("BEGIRA_LAUNCH", "7.0")
    with pytest.raises((TimeoutError, UserError)) as raised:
        wait(tmp_path)
    assert triage(Evidence(exit_code=2, log=f"Error: {raised.value}\n")).cause == "rendezvous"
