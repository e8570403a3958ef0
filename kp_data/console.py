"""What both command lines share: where output goes, how a command ends, how an error is shown.

Data goes to stdout, messages and progress to stderr. Exit codes: 0 done, 1 internal error, 2 the user can mend it,
3 done in part, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

from kp_data.errors import KpError

EXIT_INTERNAL: Final = 1
EXIT_INTERRUPTED: Final = 130

_FIRST_LINE_S: Final = 3.0
_NEXT_LINE_S: Final = 5.0

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Whether `say` keeps silent; errors are always shown."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether `--quiet` was given."""
    return _quiet


def is_debug() -> bool:
    """Whether tracebacks are wanted: `--debug`, or KP_DEBUG in the environment."""
    return "--debug" in sys.argv or bool(os.environ.get("KP_DEBUG"))


def say(message: str = "") -> None:
    """One line for a person, on stderr."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


def out_json(value: Any) -> None:
    """One JSON object on stdout, and nothing else there."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str), flush=True)


def stage_lines() -> Callable[[str, int, int], None]:
    """Progress of long work as lines on stderr: each stage once it has lasted a while, then now and then."""
    began = last = time.monotonic()
    known = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal began, last, known
        now = time.monotonic()
        if stage != known:
            began, known = now, stage
        # Work that is over in seconds needs no word.
        if now - began >= _FIRST_LINE_S and now - last >= _NEXT_LINE_S:
            last = now
            say(f"{stage}: {done:,} of {total:,}")

    return show


def run_app(app: Callable[..., Any], program: str) -> NoReturn:
    """Run a Typer app to the end of the process, every outcome with its exit code and one message.

    Args:
        app: the Typer app.
        program: name of the console command, for messages.
    """
    debug = is_debug()
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if "--help" in arguments:
        _spare_markdown()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(args=arguments, prog_name=program, standalone_mode=False)
    except KpError as error:
        _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout went away (`| head`); stdout must not be flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if (shown := getattr(error, "show", None)) is not None and hasattr(error, "exit_code"):
            shown()
            sys.exit(int(error.exit_code))
        name = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        _fail(
            f"internal error, {name}\nPlease report it with the output of the same command and --debug.",
            EXIT_INTERNAL,
            debug,
        )
    # Typer turns Ctrl-C into this code without a word.
    if code == EXIT_INTERRUPTED:
        _fail("interrupted; what is done is saved, the same command goes on from here", EXIT_INTERRUPTED, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a command as Ctrl-C does: half-written files are removed, and a message says how to go on."""
    raise KeyboardInterrupt


def _spare_markdown() -> None:
    """Keep Typer's help from loading a Markdown parser that our help texts do not use: a fifth of its CPU time.

    Only for a process that prints help and ends.
    """
    stand_in = types.ModuleType("rich.markdown")
    stand_in.Markdown = object  # type: ignore[attr-defined]
    sys.modules.setdefault("rich.markdown", stand_in)


def _fail(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
