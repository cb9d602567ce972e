"""The hang watch: late enough never to end a healthy run, early enough to save the night."""
import random

from slurm.watch import Progress


def beat(step, time, phase="train", attempt=1):
    return {"attempt": attempt, "step": step, "time": time, "phase": phase}


def watch(beats, until, progress=None):
    """Look once a second at a run that writes these heartbeats; the time at which it is called hanging, or None."""
    progress, beats, now = progress or Progress(), list(beats), 0.0
    current = None
    while now <= until:
        while beats and beats[0]["time"] <= now:
            current = beats.pop(0)
        if current and progress.see(current, now) is not None:
            return now
        now += 1.0
    return None


def healthy(random_source):
    """A run with its own pace, jitter, a slow start, long saves and evaluations."""
    pace = random_source.choice([0.05, 0.5, 2.0, 15.0, 60.0])
    now, beats = random_source.uniform(30, 1500), []
    for step in range(120):
        now += pace * random_source.lognormvariate(0, 0.25)
        beats.append(beat(step, now))
        if step % 20 == 19:
            phase = random_source.choice(["save", "evaluate"])
            beats.append(beat(step, now + 0.01, phase))
            now += random_source.uniform(0, 1800)
            beats.append(beat(step, now))
    return beats, now


def test_no_false_alarm_in_200_healthy_runs():
    source = random.Random(0)
    for _ in range(200):
        beats, end = healthy(source)
        assert watch(beats, end) is None


def test_found_in_time():
    for pace in (0.2, 1.0, 7.0, 40.0):
        beats = [beat(step, 100 + step * pace) for step in range(30)]
        found = watch(beats, beats[-1]["time"] + 3600)
        assert found is not None and found - beats[-1]["time"] <= 3 * pace + 20 + 2


def test_a_save_that_never_ends_is_found_too():
    beats = [beat(step, 10.0 + step) for step in range(10)] + [beat(9, 20.0, "save")]
    assert 3600 <= watch(beats, 8000) <= 3700


def test_without_phases_of_their_own_saves_would_be_alarms():
    """The control: the same healthy run, its save called training, is ended."""
    beats = [beat(step, 10.0 + step) for step in range(10)] + [beat(10, 600.0)]
    assert watch(beats, 700) is not None


def test_a_new_attempt_starts_over():
    progress = Progress()
    watch([beat(step, 10.0 + step) for step in range(20)], 30, progress)
    assert progress.see(beat(0, 40.0, attempt=2), 40.0) is None
    assert len(progress.durations) == 19, "the pace is known from before"
