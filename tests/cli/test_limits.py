"""Settings out of range, wherever they come from: flag or key, value and range in one line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forcedelta.audit.settings import AuditSettings
from forcedelta.calibration.result import read_calibration
from forcedelta.cli import app
from forcedelta.cli.settings_file import load_toml
from forcedelta.ensembles import EnsembleSettings, Ramp
from forcedelta.errors import ForceDeltaError
from forcedelta.limits import LIMITS, check_types
from forcedelta.simulation.settings import RunSettings, continued

KNOWN = set(RunSettings.__dataclass_fields__)


def refused(done: tuple[int, str, str]) -> str:
    code, out, err = done
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_every_number_on_the_command_line_has_limits():
    seen = set()
    for command in app.registered_commands:
        for name, hint in get_type_hints(command.callback).items():
            if {int, float} & {hint, *get_args(hint)} and name != "return":
                assert name in LIMITS, (command.name, name)
                seen.add(name)
    assert {"timestep", "risk", "spacing", "start", "spin"} <= seen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("run --timestep 1e308", "--timestep is 1e+308: give a time above 0 (1e-06 to 100 fs"),
        ("run --timestep=-0", "--timestep is 0.0: give a time above 0"),
        ("run --barostat-tau 1e308", "--barostat-tau is 1e+308: give a time above 0 (0.001 to"),
        ("run --pressure=-inf", "--pressure is -inf: give a finite number (-10000 to 10000 GPa"),
        ("run --ramp-to nan", "--ramp-to is nan: give a temperature of 0 or more (0 to 1000000 K"),
        ("run --seed 18446744073709551616", "(0 to 18446744073709551615)"),
        ("run --threads 1000000000", "--threads is 1000000000: give a whole number above 0 (1 to"),
        ("run --steps 99999999999999999999", "--steps is 99999999999999999999: give"),
        ("run --charge 100000", "--charge is 100000: give a whole number (-1000 to 1000 e)"),
        ("run --device hpu", "device 'hpu' cannot be used: give cpu, cuda"),
        ("run --device meta", "device 'meta' cannot be used"),
        ("run --stop-factor inf", "--stop-factor is inf: give a factor above 0"),
        ("audit --every 0", "--every is 0: give a whole number above 0"),
        ("audit --workers 100000", "--workers is 100000"),
        ("calibrate --risk 1e-308", "--risk is 1e-308: give a probability between 0 and 1 (1e-06"),
        ("calibrate --confidence 1", "--confidence is 1.0: give a probability between 0 and 1"),
        ("recalc --spacing=-1", "--spacing is -1.0: give a time of 0 or more"),
        ("recalc --flag-above nan", "--flag-above is nan"),
    ],
)
def test_flags(forcedelta, here, arguments, said):
    command, flag = arguments.split(" ", 1)
    needed = {
        "run": ["x.xyz", "--model", "m", "--steps", "1"],
        "audit": ["x.xyz", "--model", "m"],
        "calibrate": ["x.xyz", "--tolerance", "1"],
        "recalc": ["x.h5", "--calculator", "tblite"],
    }[command]
    assert said in refused(forcedelta(command, *needed, *flag.split(" ")))
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    "name", ["x" * 256, "a\0b", "a\nb", "a\x1b[31mb", "\udcff", "", "/" * 5000]
)
@pytest.mark.parametrize("flag", ["--out", "--flags", "--model", "--config"])
def test_names_that_no_file_can_have(forcedelta, water, here, flag, name):
    line = refused(forcedelta(*water, "--steps", "1", flag, name))
    assert line.isprintable() or line[:-1].isprintable()
    assert len(line) < 1200
    assert not list(here.iterdir())


def test_factors_are_named_by_their_flags(forcedelta, water):
    line = refused(
        forcedelta(*water, "--steps", "9", "--burn-in", "3", "--stop-above", "auto",
                   "--stop-factor", "1.2", "--flag-factor", "1.3")
    )  # fmt: skip
    assert "--flag-factor 1.3 must be below --stop-factor 1.2" in line


def test_an_architecture_is_for_files(forcedelta, here):
    Path("water.xyz").write_text("1\n\nO 0 0 0\n")
    line = refused(forcedelta("check", "acac", "water.xyz", "--architecture", "nope"))
    assert "--architecture is for local checkpoints only: omit it for model 'acac'" in line


TOML = {
    "string": ('temperature = "300"', "temperature is '300', a string: give a number, without quotes"),
    "list": ("steps = [1, 2]", "must be one value, not a table or a list"),
    "true": ("steps = true", "steps is True, true or false: give a whole number"),
    "date": ("steps = 2020-01-01", "give a whole number"),
    "fraction": ("steps = 1.5", "give a whole number"),
    "unknown": ("temprature = 300", "did you mean 'temperature'?"),
    "both": ("ramp-to = 4\nramp_to = 5", "has ramp-to and ramp_to, which are the same"),
    "twice": ("steps = 4\nsteps = 5", "is not valid TOML"),
    "digits": ("steps = " + "9" * 5000, "thousands of digits"),
    "deep": ("a = " + "[" * 5000, "nested too deeply"),
    "range": ("timestep = 1e308", "timestep is 1e+308: give a time above 0"),
    "nan": ("tau = nan", "tau is nan"),
    "choice": ('ensemble = "nvt"', "give one of nve, langevin, bussi, npt"),
    "control": ('out = "a\\u001b[31m"', "characters that cannot be printed"),
    "latin": (b'model = "\xe9"', "not UTF-8"),
    "large": (b"#" * 11_000_000, "has more than 10 MB"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), TOML.values(), ids=TOML)
def test_toml(forcedelta, here, content, said):
    Path("s.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert said in refused(forcedelta("run", "x.xyz", "--config", "s.toml"))


def test_toml_from_windows_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "s.toml"
    path.write_bytes(b'\xef\xbb\xbfsteps = 7\r\nstop_above = 0.5\r\nmodel = "acac"\r\n')
    assert load_toml(path, KNOWN) == {"steps": "7", "stop_above": "0.5", "model": "acac"}


def test_what_is_no_file(forcedelta, here):
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    for name, said in {
        "fifo": "is a pipe", "/dev/zero": "is a device", ".": "Is a directory", "loop": "symbolic links",
        "nothing": "cannot be read (No such file",
    }.items():  # fmt: skip
        assert said in refused(forcedelta("run", "x.xyz", "--config", name))
        structure = ["run", name, "--model", "acac", "--steps", "1"]
        assert f"error: {name} " in refused(forcedelta(*structure))


@given(
    name=st.sampled_from(sorted(set(LIMITS) - {"patience"})),
    value=st.one_of(
        st.floats(), st.integers(), st.sampled_from([0, -1, 2**64, 10**400, 1e-320, math.pi])
    ),
)
def test_any_number_is_taken_or_refused_by_name(name, value):
    """In a stored run, where nothing has parsed it before."""
    values = {name: value}
    low, high = LIMITS[name].low, LIMITS[name].high
    problem = ""
    try:
        check_types(RunSettings, values, "run.h5")
        check_types(AuditSettings, values, "run.h5")
    except ForceDeltaError as error:
        problem = str(error)
    if problem:
        assert problem.startswith(f"run.h5: {name} is ")
        assert "\n" not in problem
    else:
        fields = {**RunSettings.__dataclass_fields__, **AuditSettings.__dataclass_fields__}
        assert name not in fields or low <= value <= high


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flag=st.sampled_from([
        ("run", "--timestep"), ("run", "--tau"), ("run", "--temperature"), ("run", "--pressure"),
        ("run", "--steps"), ("run", "--seed"), ("run", "--threads"), ("run", "--patience"),
        ("run", "--burn-in"), ("run", "--stop-above"), ("audit", "--start"), ("audit", "--every"),
        ("audit", "--workers"), ("calibrate", "--risk"), ("calibrate", "--tolerance"),
        ("recalc", "--select"), ("recalc", "--spacing"), ("check", "--charge"), ("export", "--spin"),
    ]),
    value=st.one_of(
        st.floats().map(str), st.integers().map(str), st.text(max_size=12),
        st.sampled_from(["1e308", "-0", "nan", "9" * 5000, "1/1", "3/1", "auto", "0x1", "1_0"]),
    ),
)  # fmt: skip
def test_any_text_for_a_flag_gives_one_line(forcedelta, tmp_path, flag, value):
    """The files that the commands would need do not exist, so that all end with status 2."""
    command, option = flag
    missing = str(tmp_path / "missing.xyz")
    needed = {
        "run": [missing, "--model", "acac", *([] if option == "--steps" else ["--steps", "1"])],
        "audit": [missing, "--model", "acac"],
        "check": ["acac", missing],
        "export": ["no-such-model", "--out", missing],
        "calibrate": [missing, *([] if option == "--tolerance" else ["--tolerance", "1"])],
        "recalc": [missing, "--calculator", "tblite"],
    }[command]  # fmt: skip
    code, out, err = forcedelta(command, *needed, f"{option}={value}")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_settings_in_the_file_of_a_run():
    plain = RunSettings(restart=True)
    for stored, said in (
        ({"steps": "rm -rf"}, "run.h5: steps is 'rm -rf', a string: give a whole number"),
        ({"timestep": -1.0}, "run.h5: timestep is -1.0: give a time above 0"),
        ({"model": 3}, "run.h5: model is 3, a whole number: give a string"),
        ({"device": "a\x1b[31m"}, "run.h5: device"),
    ):
        with pytest.raises(ForceDeltaError, match=said.replace(".", r"\.")):
            continued(plain, set(), stored, str)
    assert continued(plain, set(), {"steps": 5, "stop_above": 0.5, "seed": 3}, str).steps == 5


def test_the_library_has_the_same_limits():
    good = dict(name="langevin", ramp=Ramp(300, 300, 0, 1), timestep=0.5, tau=100.0, pressure=0.0,
                barostat_tau=1000.0, seed=1)  # fmt: skip
    EnsembleSettings(**good)
    for name, value in (
        ("timestep", 1e308),
        ("tau", math.nan),
        ("pressure", -1e9),
        ("seed", 2**64),
    ):
        with pytest.raises(ForceDeltaError, match=f"^{name} is .*: give"):
            EnsembleSettings(**{**good, name: value})
    with pytest.raises(ForceDeltaError, match=r"^every is 0: give a whole number above 0"):
        AuditSettings("t.xyz", "acac", "a.h5", every=0).check()


CALIBRATION = {
    "format": "forcedelta calibration 1", "unit": "eV/Å", "on": "force_delta", "threshold": 0.1,
    "tolerance": 0.1, "risk": 0.05, "confidence": 0.9, "guarantee": "a sentence",
    "model": {"name": "acac", "weights_hash": "0123"}, "labels": {}, "passing": {}, "ranking": {},
    "thresholds": [], "versions": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tolerance", "x"), ("tolerance", None), ("tolerance", math.nan), ("threshold", math.inf),
        ("threshold", -1), ("threshold", True), ("threshold", 1e308), ("risk", 2), ("confidence", []),
        ("model", "acac"), ("model", None), ("model", {}), ("model", {"name": 1, "weights_hash": "a"}),
        ("labels", []), ("thresholds", {}), ("guarantee", 3), ("unit", "kJ"), ("format", None),
    ],
)  # fmt: skip
def test_calibrations_with_entries_that_are_none(tmp_path, key, value):
    path = tmp_path / "cal.json"
    path.write_text(json.dumps(CALIBRATION), encoding="utf-8")
    assert read_calibration(path).threshold == 0.1
    path.write_text(json.dumps({**CALIBRATION, key: value}), encoding="utf-8")
    with pytest.raises(
        ForceDeltaError, match="give a file that 'forcedelta calibrate --out' wrote"
    ):
        read_calibration(path)
    without = {name: entry for name, entry in CALIBRATION.items() if name != key}
    path.write_text(json.dumps(without), encoding="utf-8")
    with pytest.raises(ForceDeltaError):
        read_calibration(path)


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "null", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_calibrations_that_are_no_json_of_ours(tmp_path, text):
    path = tmp_path / "cal.json"
    path.write_text(text)
    with pytest.raises(ForceDeltaError, match="give a file that"):
        read_calibration(path)


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_too_little_memory_is_one_line(capsys, kind):
    import typer

    from forcedelta import cli

    greedy = typer.Typer()

    @greedy.command()
    def evaluate() -> None:
        raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 TB")

    assert cli.status_of(greedy, [], "greedy") == 2
    assert capsys.readouterr().err.startswith("error: the memory is not enough")
