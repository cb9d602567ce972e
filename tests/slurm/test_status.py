"""`status`, `plan` and `submit` on a real Slurm: how much they ask of it, what they say, and that they say the same."""
import json
import os
import time

from slurm import studies, submissions
from slurm.submissions import Submission

TOOLS = ("squeue", "sacct", "scontrol", "sinfo")


def asked(desk):
    return sum(len(desk.cluster.calls(tool)) for tool in TOOLS)


def test_thousand_runs_in_two_seconds_and_two_commands(desk):
    """1,000 runs of 4 attempts each, half of them with jobs that Slurm has forgotten."""
    grid = desk.grid("thousand", {"train": {"steps": 1}}, {"seed": {"key": "train.start", "values": list(range(1000))}})
    study = desk.study(grid)
    root = desk.folder / "runs" / "thousand"
    for number, run in enumerate(study.runs):
        path = root / run.stage / run.id
        (path / "attempts").mkdir(parents=True)
        (path / "spec.json").write_text(json.dumps(run.spec()))
        (path / "heartbeat.json").write_text(json.dumps({"attempt": 4, "time": time.time(), "step": 3, "total": 9}))
        for attempt in range(1, 5):
            outcome = None if attempt == 4 and number % 2 else "stopped"
            (path / "attempts" / f"{attempt:04d}.json").write_text(json.dumps({
                "attempt": attempt, "outcome": outcome, "cause": "preempted", "reason": "", "started": 1.0,
                "ended": 2.0, "job": f"99999_{number}", "saved_step": attempt}))
    one = Submission("0" * 8, f"thousand.train.{submissions.mark(root)}{'0' * 8}", "train", [r.id for r in study.runs],
                     [str(root / "train" / r.id) for r in study.runs], "released", "99999", time.time())
    submissions.write(root, one)
    backend = studies.choose_backend(None, "thousand")
    before, begin = asked(desk), time.perf_counter()
    rows = studies.status_rows(study, backend, [])
    seconds = time.perf_counter() - begin
    assert len(rows) == 1000 and {row.state for row in rows} == {"stopped", "lost"}
    assert asked(desk) - before <= 3
    assert seconds < 2.0 * max(1.0, os.getloadavg()[0] / os.cpu_count()), seconds


def test_plan_says_what_submit_does(desk):
    grid = desk.grid("said", {"align": {"steps": 1}, "finetune": {"steps": 1, "parents": {"align": "align"}}},
                     {"ratio": {"key": "finetune.factor", "values": [2, 3]}})
    before = len(desk.sbatch_calls())
    planned = desk.begira("plan", str(grid))
    submitted = desk.begira("submit", str(grid))
    assert planned.returncode == submitted.returncode == 0, planned.stderr + submitted.stderr
    assert planned.stdout and submitted.stdout.startswith(planned.stdout)
    assert planned.stdout.count("array ") >= len(desk.sbatch_calls()) - before == 2
    rows = json.loads(desk.begira("status", str(grid), "--json").stdout)
    assert {row["state"] for row in rows} <= {"queued", "starting", "running", "done", "planned"}
    assert set(desk.wait(grid).values()) == {"done"}


def test_a_job_that_fits_no_node_says_so_and_what_to_do(desk):
    grid = desk.grid("misfit", {"train": {"steps": 1}})
    desk.profiled(node={"cpus": 64, "memory_gb": 500}, memory_gb_per_rank=100)
    assert desk.submit(grid) == 0
    says = "no node has what it asks for: mend the profile, then cancel, retry, submit"
    desk.until(lambda: says in desk.begira("status", str(grid), "--json").stdout, 30, lambda: desk.describe(grid))
    desk.profiled()
    for verb in ("cancel", "retry", "submit"):
        done = desk.begira(verb, str(grid))
        assert done.returncode == 0, done.stderr
    assert set(desk.wait(grid, {"done"}).values()) == {"done"}


def test_over_budget_is_refused_before_the_first_sbatch(desk, monkeypatch):
    grid = desk.grid("costly", {"train": {"steps": 1, "runtime": {"nodes": 2, "time_minutes": 60}}})
    before = len(desk.sbatch_calls())
    monkeypatch.setenv("BEGIRA_BUDGET", "1.9")
    refused = desk.begira("submit", str(grid))
    assert refused.returncode == 2 and "exceed the budget of 1.9" in refused.stderr, refused.stderr
    assert len(desk.sbatch_calls()) == before
    monkeypatch.setenv("BEGIRA_BUDGET", "2.0")
    assert desk.begira("submit", str(grid)).returncode == 0


def test_editing_the_checkout_changes_nothing_for_queued_jobs(desk):
    grid = desk.grid("frozen", {"train": {"steps": 1}})
    desk.submit(grid)
    code = next(p for p in (desk.folder / "runs" / "frozen" / "code").iterdir() if p.is_dir())
    script = next((desk.folder / "runs" / "frozen" / "slurm").glob("*/*_submission.sh")).read_text()
    assert f"PYTHONPATH={code}" in script and f"cd {code}" in script and "kill-on-bad-exit" in script
    pickles = list((desk.folder / "runs" / "frozen" / "slurm").glob("*/*.pkl"))
    assert len(pickles) == 1 and pickles[0].stat().st_size < 1000
    desk.wait(grid)
