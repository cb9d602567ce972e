"""Run a function on several real ranks: processes forked from this one, which has imported everything already.

    results = run_ranks(function, 2, argument, timeout=60)      # function(argument) in each; its return values by rank

A rank that raises fails the call with its traceback; ranks that do not end in time are killed and RankTimeout is
raised. Where a rank is killed, the others have GRACE seconds to notice; then they are killed as well, as by
`srun --kill-on-bad-exit`: before they have met (in `rendezvous`) they would wait for it. """
import multiprocessing
import os
import pickle
import socket
import time
import traceback

GRACE = 10.0  # seconds


class RankTimeout(AssertionError):
    pass


def run_ranks(function, size, *arguments, timeout=60.0, expect_failure=False):
    import deepspeed  # noqa: F401  (imported once here, not once per rank)
    import omegaconf  # noqa: F401
    import transformers.models.llama.modeling_llama
    import transformers.models.llava.modeling_llava  # noqa: F401

    context = multiprocessing.get_context("fork")
    port, ranks = _free_port(), []
    for rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs, function, arguments, rank, size, port), daemon=False)
        process.start()
        theirs.close()
        ranks.append((process, ours))
    try:
        return _collect(ranks, time.monotonic() + timeout, expect_failure)
    finally:
        for process, _ in ranks:
            if process.is_alive():
                process.kill()
            process.join()


def _collect(ranks, deadline, expect_failure):
    results, failures, open_ranks = [None] * len(ranks), {}, dict(enumerate(ranks))
    while open_ranks:
        for rank, (process, pipe) in list(open_ranks.items()):
            alive = process.is_alive()  # asked first: what it said before it died is in the pipe
            if pipe.poll() or not alive:
                good, results[rank] = _word(pipe) if pipe.poll() else (False, "died without a word")
                if not good:
                    failures[rank] = f"rank {rank}: {results[rank]}"
                del open_ranks[rank]
        killed = any((process.exitcode or 0) < 0 for process, _ in ranks)
        if killed:
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            if not killed:
                raise RankTimeout(f"ranks {', '.join(map(str, open_ranks))} have not ended in time")
            failures |= {rank: f"rank {rank}: still there when another one had been killed" for rank in open_ranks}
            break
        time.sleep(0.01)
    failures = [failures[rank] for rank in sorted(failures)]
    if failures and not expect_failure:
        raise AssertionError("\n".join(failures))
    return failures if expect_failure else results


def _word(pipe):
    """(whether it went well, the value or the traceback) as a rank has sent it."""
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        return False, "died without a word"


def _child(pipe, function, arguments, rank, size, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        answer = True, function(*arguments)
    except BaseException:
        answer = False, traceback.format_exc()
    pipe.send_bytes(pickle.dumps(answer))  # by value: tensors sent otherwise live in a process that ends here
    os._exit(0)


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
