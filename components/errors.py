"""The two errors a user may meet: what they gave is wrong, or a service they named failed.

Both carry one clear paragraph: what was wrong, where, what is allowed, how to mend it. Anything else that
is raised is a defect of callforge itself.
"""


class CallforgeError(Exception):
    """Base of the errors that are shown without a traceback."""

    exit_code = 1


class InputError(CallforgeError):
    """A setting, a path, a record file or a model is wrong; exit code 2."""

    exit_code = 2


class WorkError(CallforgeError):
    """The input was right and the work failed all the same (a service went away, training diverged); exit code 1."""

    exit_code = 1
