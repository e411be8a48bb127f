"""The errors a user may see: what they gave is wrong, the work failed all the same, or the gate refused a promotion.

Each carries one clear paragraph: what was wrong, where, what is allowed, how to fix it, and never the user and password
of an address. Anything else that is raised is a defect of callforge itself.
"""

import re

_ADDRESS = re.compile(
    r"(?P<scheme>\b\w[\w+.-]*://)(?![\w.-]+/)\S*@"  # after a host and /, an @ is of the path
    r"|^[^\s/:]+:(?!//)\S*@(?=\S*$)"  # an address without a scheme
)


class CallforgeError(Exception):
    """Base of the errors that are shown without a traceback."""

    exit_code = 1

    def __init__(self, text: str) -> None:
        super().__init__(without_login(text))


class InputError(CallforgeError):
    """A setting, a path, a record file or a model is wrong; exit code 2."""

    exit_code = 2


class WorkError(CallforgeError):
    """The input was right and the work failed all the same (a service went away, training diverged); exit code 1."""

    exit_code = 1


class GateError(CallforgeError):
    """The gate refused to promote a version; exit code 3, so that a script can tell it from a mistake."""

    exit_code = 3


def is_failure(error: BaseException) -> bool:
    """Whether something failed, and not merely was told to stop. What panics in Rust is no Exception to Python."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def without_login(text: str) -> str:
    """`text`, an address or a sentence that quotes some, without the user and password of any address."""
    return _ADDRESS.sub(lambda found: found["scheme"] or "", text)  # to the last @: a password may hold a / or an @
