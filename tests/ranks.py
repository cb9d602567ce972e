"""Run a function on several real ranks: processes forked from this one, which has imported everything already.

    results = run_ranks(function, 2, argument, timeout=60)      # function(argument) in each; its return values by rank

A rank that raises fails the call with its traceback; ranks that do not end in time are killed and RankTimeout is
raised. """
import multiprocessing
import os
import pickle
import socket
import time
import traceback


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
    results, failures = [None] * len(ranks), []
    for rank, (process, pipe) in enumerate(ranks):
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            raise RankTimeout(f"rank {rank} (process {process.pid}) has not ended in time")
        try:
            good, value = pickle.loads(pipe.recv_bytes())
        except EOFError:
            good, value = False, "died without a word"
        results[rank] = value
        if not good:
            failures.append(f"rank {rank}: {value}")
    if failures and not expect_failure:
        raise AssertionError("\n".join(failures))
    return failures if expect_failure else results


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
