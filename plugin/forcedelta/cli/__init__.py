"""The console command ``forcedelta``.

Exit statuses of every command:

====  =========================================================================================
0     done
1     a bug: an error that nobody foresaw, with its traceback
2     bad input, or something that the user has to put right; one line on stderr says what
3     the guard stopped the run
4     `forcedelta check` found a model that is not usable
5     recalc: some frames have no label, because their calculation failed or waits for VASP
130   interrupted by Ctrl-C or SIGTERM; the run's file is closed and can be continued
====  =========================================================================================

PyTorch takes seconds to import, so this package imports it only where a model is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from ..errors import ForceDeltaError
from ..installing import unmet

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

try:
    import typer

    from md_hooks.errors import HookError
    from md_hooks.progress import say
    from md_hooks.text import one_line

    from . import audit, calibrate, check, export, models, plot, recalc, run, watch
    from .checked import CheckedCommand
    from .encoding import write_readably
    from .standard_streams import flush_streams, open_streams
except ImportError:
    wrong_versions = unmet()
    if wrong_versions is None:
        raise
    print(f"error: {wrong_versions}", file=sys.stderr)
    sys.exit(BAD_INPUT)

app = typer.Typer(
    name="forcedelta",
    help=(
        "Molecular dynamics with direct-force neural potentials, guarded by the Force Delta U: "
        "how far a model's direct forces and the gradient of its energy disagree, in eV/Å."
    ),
    epilog=(
        "Exit status: 0 done, 2 bad input, 3 stopped by the guard, 4 check found a model that is not "
        "usable, 5 some frames could not be labelled, 130 interrupted (Ctrl-C, SIGTERM)."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run", cls=CheckedCommand, epilog=run.EPILOG)(run.run)
app.command("check", cls=CheckedCommand, epilog=check.EPILOG)(check.check)
app.command("recalc", cls=CheckedCommand, epilog=recalc.EPILOG)(recalc.recalc)
app.command("audit", cls=CheckedCommand, epilog=audit.EPILOG)(audit.audit)
app.command("models", cls=CheckedCommand)(models.models)
app.command("calibrate", cls=CheckedCommand, epilog=calibrate.EPILOG)(calibrate.calibrate)
app.command("export", cls=CheckedCommand)(export.export)
app.command("watch", cls=CheckedCommand)(watch.watch)
app.command("plot", cls=CheckedCommand)(plot.plot)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv[1:]`` by default) and exit with its status."""
    open_streams()
    write_readably(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # during a run, its own handler is in force
    code = status(arguments)
    flush_streams()
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def status(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; foreseen errors become one line on stderr.

    Returns:
        The exit status.
    """
    return status_of(app, arguments, "forcedelta")


def status_of(program: typer.Typer, arguments: Sequence[str] | None, name: str) -> int:
    """The same for any program of typer.

    Args:
        program: with its commands.
        arguments: ``sys.argv[1:]`` by default.
        name: of the program, for its help.
    """
    try:
        args = None if arguments is None else list(arguments)
        with _log_printed():
            answer: Any = program(args, prog_name=name, standalone_mode=False)
    except (ForceDeltaError, HookError) as error:
        # notes: what else failed while files were closed, such as where a copy was saved
        return _fail("; ".join([str(error), *getattr(error, "__notes__", [])]))
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        return INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            return DONE  # `forcedelta run --help | head`: rich exits when its reader has left
        raise
    except (ImportError, AttributeError):
        wrong_versions = unmet()  # of libraries that are imported by a command
        if wrong_versions is None:
            raise
        return _fail(wrong_versions)
    except Exception as error:
        if _is_out_of_memory(error):
            return _fail(
                "the memory is not enough for this structure and model: take a machine or --device "
                "with more, or a smaller structure"
            )
        # errors of the command line itself; their base class is not public in every typer
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message())
    return answer if isinstance(answer, int) else DONE


def _is_out_of_memory(error: Exception) -> bool:
    """Of torch and numpy, told by name: torch takes seconds to import, and may not have been."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(
        error
    )


@contextlib.contextmanager
def _log_printed() -> Iterator[None]:
    """Prints on stderr what the package logs, such as that a download begins."""
    log = logging.getLogger("forcedelta")
    level = log.level
    handler = _Said()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(one_line(record.getMessage()))


def _fail(message: str) -> int:
    if message:  # it is empty where typer has printed the help instead
        say(f"error: {one_line(message)}")
    return BAD_INPUT
