"""Invalid input to every command must give one line on stderr and status 2, no traceback or hang.

    python benchmarks/bad_inputs.py [--only WORD] [--show]

Each case is a command line, run in a forked child of this process: PyTorch is imported only once.
It is a fault if the child

- prints a traceback, or ends with status 1 or by a signal,
- takes longer than the limit,
- ends with an unexpected status (expected: 2, or one of several if the input may be valid),
- prints no error, or one of several lines, with status 2,
- creates or changes a file with status 2.

Exit status: 0 without a fault, 1 otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bad_input_files import CALIBRATIONS, RECORDED, STRUCTURES, TOML, prepare

LIMIT = 60.0
"""Seconds for a case; a good run of this size takes one."""

RUN = ["run", "good.xyz", "--model", "acac", "--steps", "1"]
AUDIT = ["audit", "good.xyz", "--model", "acac"]
CALIBRATE = ["calibrate", "labelled.xyz", "--tolerance", "0.1"]
RECALC = ["recalc", "run.h5", "--calculator", "tblite", "--dry-run"]
BASES = {"run": RUN, "audit": AUDIT, "calibrate": CALIBRATE, "recalc": RECALC,
         "check": ["check", "acac", "good.xyz", "--quick"], "export": ["export", "acac", "--out", "x.pt"]}  # fmt: skip

_ONCE = (
    "audit.many",
    "calibration.calibrate",
    "simulation.guarded",
    "openmm.engine",
    "cli.training",
)
"""Modules to import before the forks."""

NUMBERS = ["1e308", "inf", "-inf", "nan", "-1e-5", "words", "", "9" * 5000, "1e-320"]
COUNTS = ["-1", "1.5", "1" + "0" * 30, "9" * 5000, "nan", "", "0x10"]
FLOAT_FLAGS = {
    "run": ["--timestep", "--tau", "--barostat-tau", "--temperature", "--ramp-to", "--pressure",
            "--stop-above", "--flag-above", "--stop-factor", "--flag-factor"],
    "audit": ["--stop-above", "--flag-above", "--stop-factor", "--flag-factor"],
    "calibrate": ["--risk", "--confidence", "--tolerance"],
    "recalc": ["--flag-above", "--stop-above", "--spacing"],
}  # fmt: skip
COUNT_FLAGS = {
    "run": ["--steps", "--every", "--seed", "--burn-in", "--record-every", "--threads", "--patience",
            "--spin"],
    "audit": ["--start", "--stop", "--every", "--burn-in", "--record-every", "--threads", "--workers",
              "--patience"],
    "calibrate": ["--threads"],
    "recalc": ["--select", "--threads", "--workers"],
    "check": ["--spin"],
    "export": ["--spin"],
}  # fmt: skip
HARMLESS = {("--temperature", "1e-320"), ("--ramp-to", "1e-320"), ("--pressure", "1e-320"),
            ("--pressure", "-1e-5"), ("--stop-above", "1e-320"), ("--flag-above", "1e-320"),
            ("--spacing", "1e-320")}  # fmt: skip
"""Values from these lists that are valid for some flags."""
DEVICES = ["hpu", "meta", "cuda:99", "cuda:-1", "cpu:x", "nonsense", "", "CPU", "vulkan", "a\nb"]
NAMES = ["", "x" * 256, "x" * 300 + "/y", "a\0b", "a\nb", "a\x1b[31mb", "\udcff", "/" * 5000, "nowhere/x.h5",
         "/proc/x.h5", "/dev/full/x", "loop", "folder", "locked/x.h5", "good.xyz/x.h5"]  # fmt: skip
SOURCES = ["nothing", "text.txt", "folder", "fifo", "/dev/zero", "loop", "empty", "noise", "locked/file",
           "good.xyz", "x" * 256, "a\0b", "a\nb", "", *RECORDED]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command line and its expected exit statuses."""

    arguments: list[str]
    allowed: tuple[int, ...] = (2,)
    remarks: bool = False
    """An audit that records the reason in its file."""


def cases() -> Iterator[Case]:
    """All of them."""
    for command, flags in FLOAT_FLAGS.items():
        for flag in flags:
            for value in NUMBERS:
                passes = (0, 2, 3) if (flag, value) in HARMLESS else (2,)
                yield Case([*BASES[command], f"{flag}={value}"], passes)
    for command, flags in COUNT_FLAGS.items():
        for flag in flags:
            yield from (Case([*BASES[command], f"{flag}={value}"]) for value in COUNTS)
    for command in ("run", "audit", "check"):
        yield from (Case([*BASES[command], f"--device={device}"]) for device in DEVICES)
    for command in ("run", "audit", "check", "export"):
        for flag in (
            "--charge=1",
            "--charge=100000",
            "--spin=2",
            "--architecture=nope",
            "--dtype=float16",
        ):
            yield Case([*BASES[command], flag])
    for name in NAMES:
        if name.startswith("locked") and os.geteuid() == 0:
            continue  # nothing is locked
        yield Case([*RUN, f"--out={name}"])
        yield Case([*RUN, f"--out={name}", "--overwrite"])
        yield Case([*RUN, f"--flags={name}"])
        yield Case([*AUDIT, f"--out={name}"])
        yield Case([*AUDIT, f"--report={name}"])
        yield Case([*CALIBRATE, f"--out={name}"])
        yield Case(["export", "acac", f"--out={name}"])
        yield Case(["plot", "run.h5", f"--out={name}"])
        yield Case([*RECALC, f"--out={name}"], (0, 2))  # nothing is written
    for name, passes in STRUCTURES.items():
        yield Case(
            ["run", name, "--model", "any.pt", "--trust", "--steps", "1"],
            (0, 3) if passes else (2,),
        )
        yield Case(["check", "any.pt", name, "--quick", "--trust"], (0, 4) if passes else (2,))
        yield Case(["run", name, "--model", "mlearn", "--steps", "1"])
        yield Case(["audit", name, "--model", "any.pt", "--trust"], (0, 2, 3), True)
        yield Case(["run", name, "--model", "any.pt", "--trust", "--steps", "1", "--engine", "openmm"],
                   (0, 2, 3) if passes else (2,))  # fmt: skip
    for name in TOML:
        yield Case(["run", "good.xyz", "--model", "acac", "--config", name])
        yield Case([*RECALC, "--settings", name])
        yield Case(["training", "train", name, "--out", "w.safetensors"])
    for name in CALIBRATIONS:
        yield Case([*RUN, "--stop-above", name])
        yield Case([*AUDIT, "--flag-above", name])
    for name in SOURCES:
        shown = (0, 2) if name == "settings.h5" else (2,)  # they do not use what is wrong in it
        yield Case(["watch", "--once", name], shown)
        yield Case(["plot", name], shown)
        yield Case(["audit", name, "--model", "acac"], (0,) if name == "good.xyz" else (0, 2), True)
        yield Case(["recalc", name, "--calculator", "tblite", "--dry-run"], (0, 2))
        yield Case(["run", "--restart", "--out", name, "--steps", "5"])
        yield Case(["audit", "--restart", "--out", name])
        yield Case(["calibrate", name, "--tolerance", "1"])
        yield Case(["run", "good.xyz", "--steps", "1", "--model", name])
        yield Case(["audit", "good.xyz", "--model", "acac", "--topology", name], (0, 2))
    yield from map(Case, OTHERS)


OTHERS = [
    [
        *RUN,
        "--stop-factor",
        "1",
        "--flag-factor",
        "2",
        "--stop-above",
        "auto",
        "--burn-in",
        "1",
        "--steps",
        "9",
    ],
    [*RUN, "--stop-above", "0.1", "--flag-above", "0.2"],
    [*RUN, "--restart", "--overwrite"],
    [*RUN, "--patience", "1/99999999999999999999"],
    [*RUN, "--patience", "9/3"],
    [*RUN, "--colour", "red"],
    [*RUN, "--threads", "1000000000"],
    [*RUN, "--ensemble", "npt"],
    [*RUN, "--ensemble", "bussi", "--engine", "openmm"],
    [*RUN, "--seed", str(2**64)],
    ["audit", "good.xyz", "good.xyz", "--model", "acac"],
    ["audit", "good.xyz", "labelled.xyz", "--model", "acac", "--out", "text.txt"],
    [*AUDIT, "--start", "100"],
    [*AUDIT, "--start", "5", "--stop", "5"],
    ["audit", "--restart", "--out", "run.h5"],
    ["recalc", "run.h5", "--calculator", "no.such:Thing", "--dry-run"],
    ["recalc", "run.h5", "--calculator", "os:system", "--dry-run"],
    ["recalc", "run.h5", "--calculator", "tblite", "--set", "nonsense", "--dry-run"],
    ["recalc", "run.h5", "--calculator", "tblite", "--set", "a=" + "(" * 5000, "--dry-run"],
    ["recalc", "run.h5", "--calculator", "tblite", "--set", "method=3", "--dry-run"],
    ["training", "train", "acac", "--out", "w.safetensors", "--seed", "-1"],
    ["training", "train", "acac", "--out", "w.safetensors", "--report-every", "0"],
    ["training", "train", "nope", "--out", "w.safetensors"],
    ["training", "train", "acac", "--out", "nowhere/w.safetensors", "--data", "nowhere"],
    ["nonsense"],
]


def snapshot(folder: Path) -> dict[str, str]:
    """Names and contents of the files in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        regular = path.is_file() and not path.is_symlink() and path.stat().st_size < 10**7
        found[str(path.relative_to(folder))] = (
            hashlib.sha1(path.read_bytes()).hexdigest() if regular else "-"
        )
    return found


def child(arguments: list[str]) -> int:
    """Run a command line in this process; the exit status."""
    if arguments[0] == "training":
        from forcedelta.cli.training import main

        sys.argv = ["training", *arguments[1:]]
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        return 0
    from forcedelta.cli import status

    return status(arguments)


def run(case: Case) -> tuple[int | None, str]:
    """Exit status (None: it hung; negative: a signal) and what it printed to stderr."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.setpgrp()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(nowhere, number)
        os.dup2(write, 2)
        os.close(read)
        code = 1
        try:
            code = child(case.arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    end, text, hung = time.monotonic() + LIMIT, b"", False
    while True:
        ready, _, _ = select.select([read], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            hung = True
            os.killpg(process, signal.SIGKILL)
            break
        block = os.read(read, 65536)
        if not block:
            break
        text += block
    os.close(read)
    _, state = os.waitpid(process, 0)
    return (None if hung else os.waitstatus_to_exitcode(state)), text.decode(errors="replace")


def faults_of(case: Case, code: int | None, stderr: str) -> list[str]:
    """The faults of a case."""
    if code is None:
        return ["hang"]
    found = []
    if "Traceback" in stderr or code == 1:
        found.append("traceback")
    elif code not in case.allowed:
        found.append(f"status {code}")
    if code == 2:
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        last = stderr.splitlines()[-1:] or [""]
        if len(errors) != 1 or not last[0].startswith("error: "):
            found.append("not one line")
        elif "\x1b" in last[0] or len(last[0]) > 1500:
            found.append("unreadable line")
    return found


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose command line contains this")
    parser.add_argument("--show", action="store_true", help="print the output of each case")
    options = parser.parse_args()
    import torch

    for module in _ONCE:
        importlib.import_module(f"forcedelta.{module}")
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        prepare(folder)
        before = snapshot(folder)
        chosen = [case for case in cases() if options.only in " ".join(case.arguments)]
        for case in chosen:
            code, stderr = run(case)
            found = faults_of(case, code, stderr)
            after = snapshot(folder)
            changed = sorted(
                path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
            )
            if changed and code == 2 and not (case.remarks and changed == ["audit.h5"]):
                found.append(f"wrote {', '.join(changed)}")
            if changed:
                restore(folder, changed)
                before = snapshot(folder)
            counts.update(fault.split()[0] for fault in found)
            counts[f"(status {code})"] += 1
            if found or options.show:
                last = (stderr.strip().splitlines() or [""])[-1]
                words = " ".join(
                    ascii(word) if not word.isprintable() else word[:60] for word in case.arguments
                )
                print(f"{'; '.join(found) or 'good'}: {words}\n    {last[:300]}", flush=True)
        restore(folder, [])
    bad = sum(number for fault, number in counts.items() if not fault.startswith("("))
    print(f"{len(chosen)} bad inputs: {bad} faults", dict(sorted(counts.items())))
    return int(bad > 0)


def restore(folder: Path, changed: list[str]) -> None:
    """Remove the files that a case wrote, and restore the inputs."""
    import shutil

    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            shutil.rmtree(path)
        else:
            path.unlink()
    if changed:
        prepare(folder)


if __name__ == "__main__":
    sys.exit(main())
