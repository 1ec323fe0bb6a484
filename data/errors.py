"""Every error raised on purpose, and the exit code of each.

    UnderstudyError          1   our fault, unless a subclass says otherwise
    +-- BadInput             2   recipe, usage or input data
    +-- BudgetReached        3   resumable with a higher cap
    +-- TeacherUnreachable   5   resumable
    +-- NotEnoughData        6
    +-- Locked               7   resumable
    +-- PublishFailed        8   resumable
    +-- TooManyFailed        9   resumable

A message is one line: where, what was found, what was expected, what to do. Each error takes one message and nothing
else, so that it survives pickling between processes.
"""


class UnderstudyError(Exception):
    """A run that cannot go on. Printed as one line, without a traceback."""

    exit_code = 1


class BadInput(UnderstudyError):
    """The recipe, the command line or the data is not usable as it is."""

    exit_code = 2


class BudgetReached(UnderstudyError):
    """The next request could exceed the cap. Everything paid for is in the ledger."""

    exit_code = 3


class TeacherUnreachable(UnderstudyError):
    """Nothing was answered, and a later run may succeed."""

    exit_code = 5


class NotEnoughData(UnderstudyError):
    """Too few rows or roots for what was asked."""

    exit_code = 6


class Locked(UnderstudyError):
    """Another run of this recipe holds this root."""

    exit_code = 7


class PublishFailed(UnderstudyError):
    """What was made could not be put where others find it; it is kept."""

    exit_code = 8


class TooManyFailed(UnderstudyError):
    """More rows failed than `max_failed` allows."""

    exit_code = 9


def in_a_line(error: BaseException, most: int = 200) -> str:
    """What a library said of its error, for the middle of a message of ours; its name where it said nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
