"""Every error a user can mend, as one small tree.

KpError                 exit code 2, shown as one message without a traceback
├── ConfigError         kp.yaml or an option says something that cannot be
├── DataError           a file, a row or a folder is not what it should be
├── TeacherError        a teacher is unknown, has no key or cannot be reached
├── StoreError          the cell store cannot be opened or written
├── MethodError         a purifier, objective or student cannot work on this data
├── HubError            a hub refused, or cannot be reached
└── Unfinished          exit code 3: part of the work is done, run again to go on

A message names the place, the value and the remedy; `place`, when given, comes first.
"""


class KpError(Exception):
    """An error that the user can mend. One string, so that it survives process borders."""

    exit_code = 2

    def __init__(self, message: str, *, place: object | None = None) -> None:
        super().__init__(f"{place}: {message}" if place is not None else message)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),)


class ConfigError(KpError, ValueError):
    """kp.yaml or a command-line option holds something that cannot be."""


class DataError(KpError, ValueError):
    """A file, a row or a folder is not what it should be."""


class TeacherError(KpError):
    """A teacher is unknown, has no key, or cannot be reached."""


class StoreError(KpError):
    """The cell store cannot be opened or written."""


class MethodError(KpError, ValueError):
    """A purifier, objective or student cannot work on this data."""


class HubError(KpError):
    """A hub refused, or cannot be reached."""


class Unfinished(KpError):
    """Part of the work is done; running the same command again goes on."""

    exit_code = 3
