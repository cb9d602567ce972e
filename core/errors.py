"""The two exceptions that mean something to the outside: a mistake that its reader can mend, and a stop on request.

Everything else that is raised is a fault of begira's own and keeps its traceback."""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line. The command line prints it and exits with code 2."""


class Stopped(Exception):
    """The run saved its state and stopped because it was asked to (time limit, preemption, cancel). It can go on."""

    EXIT_CODE = 75  # EX_TEMPFAIL: the backend requeues a run that ends so

    def __init__(self, reason: str, step: int):
        super().__init__(f"stopped at step {step}: {reason}")
        self.reason, self.step = reason, step
