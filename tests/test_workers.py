"""Workers end with their owner."""
import os
import select
import signal
import time

from data_tools.workers import workers


def test_workers_are_gone_when_their_owner_is_killed():
    seen, held = os.pipe()
    owner = os.fork()
    if owner == 0:
        with workers(2) as pool:
            list(pool.map(os.write, [held] * 2, [b"."] * 2))
            time.sleep(60)
        os._exit(0)
    os.close(held)
    said = b""
    while len(said) < 2:
        said += os.read(seen, 2)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    assert select.select([seen], [], [], 10)[0], "a worker still holds the pipe"
    assert os.read(seen, 1) == b""
    os.close(seen)


def test_at_least_one():
    with workers(0) as pool:
        assert list(pool.map(abs, [-3])) == [3]
