"""The predicted error: on real models and labels, and its properties."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forcedelta.calibration.atom_errors import LabelledAtoms, fit_atoms
from forcedelta.calibration.fit_error import (
    factor,
    fit_signals,
    folds_of,
    predicted_error,
    worst_coverage,
)
from forcedelta.calibration.labels import Labels
from forcedelta.calibration.log_linear import PENALTIES, QUADRATIC, REWEIGHTED, fit
from forcedelta.calibration.predicted_error import FLOOR, UNKNOWN_COMPOSITION, PredictedError
from forcedelta.calibration.predicted_error_file import from_dict, read_predicted_error, text_of
from forcedelta.calibration.signals import Signals, composition, rigid_force
from forcedelta.errors import ForceDeltaError
from forcedelta.ranking import spearman

ROWS = np.genfromtxt(
    Path(__file__).with_name("signals.csv"), delimiter=",", names=True, dtype=None, encoding=None
)
SIGNALS = ("force_delta", "worst_atom", "energy_per_atom", "force_rms", "rigid_force")


def labels_of(model: str) -> Labels:
    rows = ROWS[ROWS["model"] == model]
    count = len(rows)
    columns = {name: rows[name] for name in SIGNALS}
    return Labels(
        force_delta=rows["force_delta"], epsilon=rows["epsilon"], force_rms=rows["force_rms"],
        energy=rows["energy_per_atom"], source=[None] * count, time=np.full(count, np.nan),
        model={"name": model, "weights_hash": "0"}, reference=None,
        signals=Signals(columns, rows["composition"].tolist()),
    )  # fmt: skip


def halves(labels: Labels, count: int, seed: int) -> tuple[PredictedError, Labels]:
    order = np.random.default_rng(seed).permutation(len(labels))
    return predicted_error(labels.subset(order[:count]), seed), labels.subset(order[count:])


@pytest.mark.parametrize(
    ("model", "most"), [("acac", 1.17), ("acac-direct", 1.42), ("mlearn", 1.6)]
)
def test_labels_that_it_has_not_seen(model, most):
    """Typical factor, rank and coverage on real errors, against the single signals."""
    labels = labels_of(model)
    factors, ranks, inside = [], [], []
    single = {name: [] for name in SIGNALS}
    for seed in range(12):
        found, rest = halves(labels, 40, seed)
        centre, low, high = found.predict(rest.signals)
        error = np.maximum(rest.epsilon, FLOOR)
        assert (low <= centre).all()
        assert (centre <= high).all()
        factors.append(factor(np.log(centre / error)))
        ranks.append(float(spearman(centre, error)))
        inside.append(float(np.mean((low <= error) & (error <= high))))
        for name, column in rest.signals.columns.items():
            single[name].append(float(spearman(column, error)))
    assert np.mean(factors) < most
    assert np.mean(ranks) > max(np.mean(values) for values in single.values()) - 0.02
    assert 0.87 < np.mean(inside) < 0.96


def test_where_u_is_weak_other_signals_carry():
    found = predicted_error(labels_of("acac-direct"))
    assert "energy_per_atom" in found.fit.slopes
    assert found.fit.slopes["energy_per_atom"] > 0
    assert found.quality["factor"] <= found.quality["best_single"]["factor"]
    alone = predicted_error(labels_of("acac"))
    assert alone.fit.slopes["force_delta"] == pytest.approx(1, abs=0.3)


def test_a_zero_of_energy_and_a_unit_of_error_do_not_matter():
    labels = labels_of("mlearn")
    found = predicted_error(labels)
    shift = {"Li": 3.0, "Si": -11.0, "Ge": 0.5, "Mo": 100.0}
    moved = {
        **labels.signals.columns,
        "energy_per_atom": labels.signals.columns["energy_per_atom"]
        + [shift[name] for name in labels.signals.compositions],
    }
    other = replace(labels, signals=Signals(moved, labels.signals.compositions))
    np.testing.assert_allclose(
        predicted_error(other).predict(other.signals), found.predict(labels.signals), rtol=1e-3
    )
    tenfold = predicted_error(replace(labels, epsilon=10 * np.maximum(labels.epsilon, FLOOR)))
    np.testing.assert_allclose(
        tenfold.predict(labels.signals), 10 * np.array(found.predict(labels.signals)), rtol=1e-4
    )


def test_leaving_one_out_is_what_it_says():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(18, 2))
    mark = (np.arange(18) < 7).astype(float)
    y = 0.3 + 0.8 * x[:, 0] + 0.5 * mark + 0.05 * rng.normal(size=18)
    found = fit({"a": x[:, 0]}, y, {"mark": mark})
    assert found.names == ("a", "mark")

    def ridge(kept, penalty, weights):
        """The normal equations, with the scales of all labels; the prediction for all of them."""
        design = np.column_stack([np.ones(18), x[:, 0] / x[:, 0].std(), mark])
        # n lambda stays that of all labels, whose decomposition gives the shortcut
        weighted = design[kept].T * weights[kept]
        square = weighted @ design[kept] + 18 * penalty * np.diag([0, 1, 1])
        solution = np.linalg.solve(square, weighted @ y[kept])
        return solution, y - design @ solution

    everything, weights = np.arange(18), np.ones(18)
    for _ in range(REWEIGHTED + 1):
        explicit = [
            [ridge(everything != i, penalty, weights)[1][i] for i in range(18)]
            for penalty in PENALTIES
        ]
        best = np.abs(explicit).mean(axis=1).argmin()
        solution, residual = ridge(everything >= 0, PENALTIES[best], weights)
        size = np.abs(residual)
        weights = np.minimum(1, QUADRATIC * np.median(size) / 0.6745 / size)
    assert (weights < 1).any()
    np.testing.assert_allclose(found.residuals, explicit[best], atol=1e-10)
    assert found.intercept == pytest.approx(solution[0])
    assert found.slopes == pytest.approx((solution[1] / x[:, 0].std(), solution[2]))


def mixed(labels: Labels, seed: int, count: int = 36) -> tuple[Labels, Labels]:
    order = np.random.default_rng(seed).permutation(len(labels))
    return labels.subset(order[:count]), labels.subset(order[count:])


def with_heavy_tails(labels: Labels) -> Labels:
    """One in twelve energies is wrong, by 0.3 to hundreds of eV per atom."""
    rng = np.random.default_rng(5)
    energy = labels.signals.columns["energy_per_atom"].copy()
    energy[::12] += 0.3 * rng.standard_t(1, len(energy[::12]))
    columns = {**labels.signals.columns, "energy_per_atom": energy}
    return replace(labels, signals=Signals(columns, labels.signals.compositions))


@pytest.mark.parametrize(
    ("case", "signals", "noise"),
    [
        ("displaced", SIGNALS, 0.01),
        ("displaced", SIGNALS[:-1], 0.01),
        ("energies", SIGNALS, 0.01),
        ("energies", SIGNALS[:-1], 0.02),
    ],
)
def test_outliers_do_not_make_it_worse_than_the_best_single_signal(case, signals, noise):
    """On frames that it has not seen, over 60 draws of labels: by at most 1 or 2 % in the typical factor.

    The best single signal is the one with the smallest factor on those frames, as nobody can choose
    in practice. Of "displaced", one frame in twelve has U of up to 1e8 eV/Å. Without the last signal as
    for models whose direct forces have no net force and torque.
    """
    labels = with_heavy_tails(labels_of("acac-direct")) if case == "energies" else labels_of(case)
    columns, kinds = labels.signals.columns, labels.signals.compositions
    labels = replace(labels, signals=Signals({name: columns[name] for name in signals}, kinds))
    together, alone = [], {name: [] for name in signals}
    for seed in range(60):
        drawn, rest = mixed(labels, seed)
        target, error = np.log(drawn.epsilon), np.log(rest.epsilon)
        together.append(np.abs(fit_signals(drawn.signals, target).log_error(rest.signals) - error))
        for name, losses in alone.items():
            one = Signals({name: drawn.signals.columns[name]}, drawn.signals.compositions)
            losses.append(np.abs(fit_signals(one, target).log_error(rest.signals) - error))
    best = min(np.mean(losses) for losses in alone.values())
    assert np.mean(together) < best + noise


@pytest.mark.slow
@pytest.mark.parametrize("case", ["displaced", "energies"])
def test_intervals_cover_with_outliers(case):
    labels = with_heavy_tails(labels_of("acac-direct")) if case == "energies" else labels_of(case)
    inside = []
    for seed in range(12):
        drawn, rest = mixed(labels, seed)
        _, low, high = predicted_error(drawn, seed).predict(rest.signals)
        inside.append(float(np.mean((low <= rest.epsilon) & (rest.epsilon <= high))))
    assert 0.87 < np.mean(inside) < 0.95


def test_one_outlier_among_labels_hardly_moves_the_fit():
    rng = np.random.default_rng(2)
    columns = {"a": rng.normal(size=30), "b": rng.normal(size=30)}
    target = columns["a"] + 0.1 * rng.normal(size=30)
    slope = dict(zip(("a", "b"), fit(columns, target).slopes, strict=True))
    target[columns["a"].argmax()] -= 20.0
    moved = dict(zip(("a", "b"), fit(columns, target).slopes, strict=True))
    assert slope["a"] == pytest.approx(1, abs=0.05)
    assert moved["a"] == pytest.approx(1, abs=0.15)


def test_noise_is_not_fitted():
    """Signals that say nothing do not spoil the one that does: judged on fresh frames."""
    chosen, alone = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        columns = {name: rng.normal(size=520) for name in "abcd"}
        target = columns["a"] + 0.3 * rng.normal(size=520)
        few = {name: column[:20] for name, column in columns.items()}
        for names, losses in (("abcd", chosen), ("a", alone)):
            found = fit({name: few[name] for name in names}, target[:20])
            assert "a" in found.names
            new = found.intercept + sum(
                slope * columns[name][20:]
                for name, slope in zip(found.names, found.slopes, strict=True)
            )
            losses.append(np.abs(new - target[20:]).mean())
    assert np.mean(chosen) < 1.05 * np.mean(alone)


def test_intervals_are_those_of_the_formula():
    labels = labels_of("acac")
    found = predicted_error(labels.subset(np.arange(20)))
    fold, unit = folds_of([None] * 20)
    assert unit == "labels"
    assert sorted(fold) == list(range(20))  # leave one out: the jackknife+
    rest = labels.subset(np.arange(20, 40))
    target = np.log(labels.epsilon[:20])
    low, high = [], []
    for k, row in zip(fold, range(20), strict=True):
        kept = fold != k
        one = fit_signals(labels.subset(np.flatnonzero(kept)).signals, target[kept])
        residual = abs(target[row] - one.log_error(labels.subset(np.array([row])).signals)[0])
        low.append(one.log_error(rest.signals) - residual)
        high.append(one.log_error(rest.signals) + residual)
    _, lower, upper = found.predict(rest.signals)
    # of 20 labels: the 2nd smallest, the 19th smallest
    np.testing.assert_allclose(np.log(lower), np.sort(low, axis=0)[1], atol=1e-5)
    np.testing.assert_allclose(np.log(upper), np.sort(high, axis=0)[18], atol=1e-5)
    assert worst_coverage(20, 20) == pytest.approx(0.8)
    assert worst_coverage(50, 20) < 0.8


def test_runs_are_left_out_as_a_whole():
    runs = [f"run {row % 12}" for row in range(60)]
    fold, unit = folds_of(runs)
    assert unit == "runs"
    for run in set(runs):
        assert len({k for k, name in zip(fold, runs, strict=True) if name == run}) == 1
    fold, unit = folds_of(["one run"] * 30)
    assert unit == "frames"
    assert len(set(fold)) == 20
    labels = labels_of("acac")
    one = replace(labels, source=["one run"] * len(labels))
    assert "those of one run are taken as independent" in predicted_error(one).guarantee


def test_a_frame_unlike_the_labels_is_told():
    labels = labels_of("mlearn")
    found = predicted_error(labels)
    first = labels.subset(np.array([0])).signals

    def outside(kind=first.compositions[0], **other):
        columns = {**first.columns, **{name: np.array([value]) for name, value in other.items()}}
        return [name for name, out in found.outside(Signals(columns, [kind])).items() if out[0]]

    assert outside() == []
    assert outside(force_delta=50.0) == ["force_delta"]
    energy = first.columns["energy_per_atom"][0]
    assert outside(energy_per_atom=energy + 9) == ["energy_per_atom"]
    assert outside("Au") == [UNKNOWN_COMPOSITION]
    # the offsets of elements matter: without them the labels of four elements are fitted worse
    target = np.log(np.maximum(labels.epsilon, FLOOR))
    pooled = fit_signals(Signals(labels.signals.columns, ["X"] * len(labels)), target)
    assert not pooled.offsets
    same = Signals(labels.signals.columns, ["X"] * len(labels))
    offset = fit_signals(labels.signals, target).log_error(labels.signals)
    assert factor(offset - target) < factor(pooled.log_error(same) - target)


def test_composition_is_the_reduced_formula():
    assert composition(np.array([6] * 5 + [1] * 8 + [8] * 2)) == "C5H8O2"
    assert composition(np.array([14] * 64)) == composition(np.array([14] * 63)) == "Si"
    assert composition(np.array([8, 1, 1, 8, 1, 1])) == "H2O"


def test_what_moves_a_structure_as_a_whole_is_a_part_of_the_error():
    rng = np.random.default_rng(0)
    free, periodic = np.zeros(3, bool), np.array([True, True, False])
    positions = rng.normal(size=(7, 3))
    pairs = positions[:, None] - positions[None]
    exact = ((pairs**2).sum(axis=2, keepdims=True) * pairs).sum(axis=1)  # of a pair potential
    assert rigid_force(positions, exact, free) == pytest.approx(0, abs=1e-12)
    forces = exact + rng.normal(size=(7, 3))
    found = rigid_force(positions, forces, free)
    # the least error of the forces against any forces without net force and torque
    arms = positions - positions.mean(axis=0)
    conditions = np.stack(
        [np.broadcast_to(axis, (7, 3)).ravel() for axis in np.eye(3)]
        + [np.cross(axis, arms).ravel() for axis in np.eye(3)]
    )
    part = np.linalg.lstsq(conditions.T, forces.ravel())[0] @ conditions
    assert found == pytest.approx(np.sqrt(np.mean(part**2)))
    assert found < np.sqrt(np.mean((forces - exact) ** 2))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = rigid_force((positions + 3.0) @ turn.T, forces @ turn.T, free)
    assert moved == pytest.approx(found)
    net = np.linalg.norm(forces.mean(axis=0)) / np.sqrt(3)
    assert rigid_force(positions, forces, periodic) == pytest.approx(net)
    # a linear molecule cannot turn about its axis, a single atom not at all
    line = np.array([[0.0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]])
    bend = np.array([[2.0, 0, 0], [-1, 0, 0], [-1, 0, 0]])
    assert rigid_force(line, bend, free) == pytest.approx(0, abs=1e-12)
    assert rigid_force(line[:1], bend[:1], free) == pytest.approx(2 / np.sqrt(3))
    assert math.isnan(rigid_force(np.where(line > 1, np.nan, line), bend, free))
    assert math.isnan(rigid_force(line, np.where(bend > 1, np.inf, bend), periodic))


def test_atoms_by_element():
    """A power law with known spread comes back, with its coverage."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(40):
        numbers = np.array([1] * 6 + [8] * 3)
        u = rng.lognormal(-2, 0.7, 9)
        spread = np.where(numbers == 1, 0.2, 0.6)
        error = np.where(numbers == 1, 2.0 * u, 0.5 * u**0.5) * np.exp(spread * rng.normal(size=9))
        frames.append(LabelledAtoms(numbers, u, error))
    found = fit_atoms([*frames, LabelledAtoms(np.array([79]), np.array([0.1]), np.array([0.1]))])
    assert set(found) == {"H", "O"}  # of gold there is one frame
    assert found["H"].slope == pytest.approx(1, abs=0.05)
    assert math.exp(found["H"].intercept) == pytest.approx(2, rel=0.1)
    assert found["O"].slope == pytest.approx(0.5, abs=0.15)
    assert found["H"].high == pytest.approx(1.645 * 0.2, rel=0.2)
    assert found["O"].low == pytest.approx(-1.645 * 0.6, rel=0.25)
    for entry in found.values():
        assert entry.coverage == pytest.approx(0.9, abs=0.06)
    centre, low, high = found["O"].predict(np.array([0.25]))
    assert low[0] < centre[0] == pytest.approx(0.25, rel=0.2)
    assert centre[0] < high[0]


def test_what_is_written_is_what_is_read(here):
    labels = labels_of("mlearn")
    found = predicted_error(labels)
    Path("error.json").write_bytes(text_of(found))
    assert read_predicted_error("error.json") == found


def test_too_few_labels():
    with pytest.raises(ForceDeltaError, match="at least 10 labels, and there are 9"):
        predicted_error(labels_of("acac").subset(np.arange(9)))
    assert predicted_error(labels_of("acac").subset(np.arange(10))).residuals


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("prediction",), None), (("prediction", "model"), []),
        (("prediction", "energy_scale"), None), (("prediction", "energy_scale"), 0.2),
        (("prediction", "model", "weights_hash"), 3), (("prediction", "fit"), None),
        (("prediction", "fit", "intercept"), "1"), (("prediction", "fit", "intercept"), 1e300),
        (("prediction", "fit", "slopes"), {"colour": 1.0}),
        (("prediction", "fit", "slopes", "force_delta"), True),
        (("prediction", "fit", "offsets"), [1]), (("prediction", "fit", "energies", "Au"), None),
        (("prediction", "folds"), []), (("prediction", "folds"), "all"),
        (("prediction", "residuals"), [[0, 0.1]]), (("prediction", "residuals", 0), [99, 0.1]),
        (("prediction", "residuals", 0), [0, -0.1]), (("prediction", "residuals", 0), 0.1),
        (("prediction", "residuals", 0), [0.5, 0.1]), (("prediction", "residuals", 0), [-1, 0.1]),
        (("prediction", "ranges"), {}), (("prediction", "ranges", "force_delta"), [1]),
        (("prediction", "ranges", "force_delta"), [None, 1]), (("prediction", "atoms"), [1]),
        (("prediction", "atoms", "Fe"), {"slope": 1}), (("prediction", "atoms", "Foo"), {}),
        (("prediction", "guarantee"), ""), (("prediction", "quality"), 1),
    ],
)  # fmt: skip
def test_files_that_were_changed(here, path, value):
    entries = json.loads(text_of(predicted_error(labels_of("acac").subset(np.arange(30)))))
    place = entries
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    Path("error.json").write_text(json.dumps(entries))
    with pytest.raises(ForceDeltaError, match=r"error\.json: .* of the predicted error is") as said:
        read_predicted_error("error.json")
    assert "\n" not in str(said.value)


def test_nan_is_not_json_and_tables_are_complete(here):
    found = predicted_error(labels_of("acac").subset(np.arange(30)))
    Path("error.json").write_bytes(
        text_of(found).replace(b'"intercept": -', b'"intercept": NaN, "x": -')
    )
    with pytest.raises(ForceDeltaError, match="not JSON"):
        read_predicted_error("error.json")
    for name in found.as_dict():
        entries = {key: value for key, value in found.as_dict().items() if key != name}
        with pytest.raises(ForceDeltaError):
            from_dict(entries, "error.json")
