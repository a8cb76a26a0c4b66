"""The largest number of inner steps that conserves energy, as `forcedelta check --mts` finds it."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
from ase.constraints import FixBondLengths

from forcedelta import ForceDeltaError, load_model
from forcedelta.cli.check import _time_steps
from forcedelta.cli.tables import rendered
from forcedelta.verify import time_steps as module
from forcedelta.verify.time_steps import Leg, TimeSteps, time_steps
from md_hooks import Drift

EXAMPLE = Path(__file__).parents[1] / "examples" / "acetylacetone.xyz"


@pytest.fixture(scope="module")
def found() -> TimeSteps:
    """Of a trained model, with shorter runs, a tight bound, and long steps to exceed it soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEG", 120.0)
        patch.setattr(module, "EQUILIBRATION", 40.0)
        return time_steps(load_model("acac"), ase.io.read(EXAMPLE), timestep=1.0, drift_bound=2.0)


def test_the_runs_end_at_the_first_that_drifts(found: TimeSteps) -> None:
    tried = [leg.inner for leg in found.mts]
    assert tried == list(module.INNER[: len(tried)])
    assert 1 < len(tried) < len(module.INNER)  # outer steps of 12 fs are longer than C-H vibrations
    assert not found.mts[-1].conserves(found.bound)
    assert all(leg.conserves(found.bound) for leg in found.mts[:-1])
    assert found.largest == found.mts[-2]


def test_drift_and_cost_lie_between_those_of_the_two_forces(found: TimeSteps) -> None:
    assert found.direct.drift is not None
    assert found.conservative.conserves(found.bound)
    assert not found.direct.conserves(found.bound)
    first = found.mts[0]
    assert found.direct.seconds < first.seconds < found.conservative.seconds


def test_json(found: TimeSteps) -> None:
    numbers = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert numbers["largest_inner"] == found.mts[-2].inner
    assert [leg["forces"] for leg in numbers["legs"][:3]] == ["direct", "conservative", "mts"]
    assert numbers["legs"][0]["over_direct"] == numbers["legs"][1]["over_exact"] == 1.0


def test_a_drift_counts_with_its_error() -> None:
    def leg(drift: Drift | None) -> Leg:
        return Leg("mts", 4, drift, 1.0)

    assert leg(Drift(-0.5, 0.2)).conserves(1.0)
    assert not leg(Drift(-0.5, 0.3)).conserves(1.0)
    assert not leg(None).conserves(1.0)
    none = TimeSteps(leg(None), leg(None), (leg(None),), 1.0, 0.5, 300.0)
    assert none.largest is None


def test_bad_input() -> None:
    atoms, model = ase.io.read(EXAMPLE), load_model("acac")
    with pytest.raises(ForceDeltaError, match="drift_bound is 0: give a drift above 0"):
        time_steps(model, atoms, drift_bound=0)
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    with pytest.raises(ForceDeltaError, match="constraint FixBondLengths"):
        time_steps(model, atoms)


def test_the_table(found: TimeSteps) -> None:
    text = rendered(_time_steps(found), coloured=False)
    assert "NVE at 300 K, 1 fs" in text
    assert text.count("meV/atom/ps") + text.count("explodes") == len(found.legs)
    inner = found.mts[-2].inner
    assert f"recommended: --forces mts --inner {inner}, at " in text
    none = TimeSteps(found.direct, found.conservative, (), 0.1, 1.0, 300.0)
    assert "no --inner keeps the drift below 0.1 meV/atom/ps" in rendered(_time_steps(none), False)


def test_the_command(forcedelta, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEG", 20.0)
    monkeypatch.setattr(module, "EQUILIBRATION", 5.0)
    monkeypatch.setattr(module, "INNER", (2,))
    arguments = ("check", "acac", EXAMPLE, "--quick", "--mts", "--json", "--drift-bound")
    code, out, _ = forcedelta(*arguments, "1e4")
    assert code == 0
    assert json.loads(out)["time_steps"]["largest_inner"] == 2
    code, _, err = forcedelta("check", "acac", EXAMPLE, "--drift-bound", "2")
    assert code == 2
    assert "belong to --mts: pass it too, or omit them" in err
    code, _, err = forcedelta(*arguments, "-1")
    assert code == 2
    assert "--drift-bound is -1.0: give a drift above 0" in err
