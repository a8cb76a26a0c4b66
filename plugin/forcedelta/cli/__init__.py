"""The console command ``forcedelta``.

Its exit statuses are those of `exit_status.ExitStatus`. PyTorch takes seconds to import, so this
package imports it only where a model is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, Any

from ..errors import ForceDeltaError
from ..installing import unmet
from ..versions import __version__
from .exit_status import ExitStatus, described

try:
    import typer
    from tqdm import tqdm

    from md_hooks.errors import HookError
    from md_hooks.progress import print_line
    from md_hooks.text import one_line

    from . import (
        attack,
        audit,
        calibrate,
        check,
        compare,
        export,
        models,
        plot,
        recalc,
        run,
        screen,
        tune,
        watch,
    )  # fmt: skip
    from .checked import CheckedCommand
    from .encoding import write_readably
    from .standard_streams import flush_streams, open_streams
except ImportError:
    wrong_versions = unmet()
    if wrong_versions is None:
        raise
    print(f"error: {wrong_versions}", file=sys.stderr)
    sys.exit(ExitStatus.BAD_INPUT)

app = typer.Typer(
    name="forcedelta",
    help=(
        "Molecular dynamics with direct-force neural potentials, guarded by the Force Delta U: "
        "how far a model's direct forces and the gradient of its energy disagree, in eV/Å."
    ),
    epilog=described(),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"forcedelta {__version__}", sys.stdout)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_version
        ),
    ] = False,
) -> None:
    """The options of ``forcedelta`` itself."""


app.command("run", cls=CheckedCommand, epilog=run.EPILOG)(run.run)
app.command("check", cls=CheckedCommand, epilog=check.EPILOG)(check.check)
app.command("recalc", cls=CheckedCommand, epilog=recalc.EPILOG)(recalc.recalc)
app.command("audit", cls=CheckedCommand, epilog=audit.EPILOG)(audit.audit)
app.command("attack", cls=CheckedCommand, epilog=attack.EPILOG)(attack.attack)
app.command("screen", cls=CheckedCommand, epilog=screen.EPILOG)(screen.screen)
app.command("models", cls=CheckedCommand)(models.models)
app.command("calibrate", cls=CheckedCommand, epilog=calibrate.EPILOG)(calibrate.calibrate)
app.command("compare", cls=CheckedCommand, epilog=compare.EPILOG)(compare.compare)
app.command("tune", cls=CheckedCommand, epilog=tune.EPILOG)(tune.tune)
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
        print_line("interrupted")
        return ExitStatus.INTERRUPTED
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            return (
                ExitStatus.DONE
            )  # `forcedelta run --help | head`: rich exits when its reader has left
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
    return answer if isinstance(answer, int) else ExitStatus.DONE


def _is_out_of_memory(error: Exception) -> bool:
    """Of torch and numpy, told by name: torch takes seconds to import, and may not have been."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(
        error
    )


@contextlib.contextmanager
def _log_printed() -> Iterator[None]:
    """Prints on stderr what the packages log, such as that a download begins."""
    handler = _Printed()
    logs = [logging.getLogger(name) for name in ("forcedelta", "md_hooks")]
    levels = [log.level for log in logs]
    for log in logs:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
            log.removeHandler(handler)


class _Printed(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "warning: " if record.levelno >= logging.WARNING else ""
        with tqdm.external_write_mode(file=sys.stderr):  # above a progress bar
            print_line(f"{level}{one_line(record.getMessage())}")


def _fail(message: str) -> int:
    if message:  # it is empty where typer has printed the help instead
        print_line(f"error: {one_line(message)}")
    return ExitStatus.BAD_INPUT
