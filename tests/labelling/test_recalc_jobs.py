"""Jobs, journal and labelled file for any reference code."""

from __future__ import annotations

import json
import resource
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io.jsonio import decode
from doubtful_frames import doubtful
from references import FillsTheDisk, Spring, Threads, Wrong

from md_hooks import HookError
from md_hooks.recalculation import (
    CalculatorReference,
    Failure,
    Job,
    Journal,
    Label,
    key_of,
    recalculate,
    run_job,
)


def emt(atoms):
    return EMT()


def job(tmp_path, atoms, reference, **options):
    return Job("a", atoms, reference, str(tmp_path / "work" / "a"), **options)


@pytest.mark.usefixtures("silent")
def test_a_label_is_what_the_calculator_gives_to_the_last_bit(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    label = run_job(job(tmp_path, atoms, CalculatorReference(emt, "EMT")))
    atoms.calc = EMT()
    assert isinstance(label, Label)
    assert label.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(label.forces, atoms.get_forces())
    np.testing.assert_array_equal(label.stress, atoms.get_stress())
    assert not (tmp_path / "work" / "a").exists()


def test_a_result_that_cannot_be_written_is_not_a_failure_of_the_reference_code(tmp_path):
    with pytest.raises(HookError, match="its result cannot be written: free some space"):
        run_job(job(tmp_path, molecule("H2O"), FillsTheDisk()))


def test_threads_are_set_before_the_reference_code_is_loaded(tmp_path):
    label = run_job(job(tmp_path, molecule("H2O"), Threads(), threads=2))
    assert isinstance(label, Label)
    assert label.energy == 2


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (Spring(dies_at=8), "ended by SIGKILL.*about to run out of memory"),
        (Wrong("nan"), "not finite"),
        (Wrong("shape"), r"shape \(2, 3\) for 3 atoms"),
    ],
)
def test_a_failure_is_told_in_words_and_its_folder_is_kept(tmp_path, reference, words):
    failure = run_job(job(tmp_path, molecule("H2O"), reference))
    assert isinstance(failure, Failure)
    assert "\n" not in failure.message
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(failure.message)
    assert (tmp_path / "work" / "a" / "output.txt").is_file()


def test_what_other_processes_cannot_import_is_refused(tmp_path):
    with pytest.raises(HookError, match="module that can be imported"):
        run_job(job(tmp_path, molecule("H2O"), CalculatorReference(lambda atoms: EMT(), "EMT")))


def test_a_job_that_crashes_loses_only_itself(tmp_path):
    """In a pool of processes, which a job that crashed in one of them would break."""
    frames = [doubtful(seed) for seed in range(3)]
    frames[1].numbers = [7, 1, 1]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        journal = recalculate(frames, Spring(dies_at=7), tmp_path / "out.xyz", executor)
    keys = [key_of(atoms) for atoms in frames]
    assert list(journal.labels) == sorted([keys[0], keys[2]], key=list(journal.labels).index)
    assert list(journal.failures) == [keys[1]]
    assert len(ase.io.read(tmp_path / "out.xyz", ":")) == 2


def test_the_labelled_file_holds_label_prediction_and_provenance(tmp_path):
    frames = [doubtful(seed) for seed in range(2)]
    with ThreadPoolExecutor(1) as executor:
        recalculate(frames, Spring(), tmp_path / "out.xyz", executor)
    for atoms, before in zip(ase.io.read(tmp_path / "out.xyz", ":"), frames, strict=True):
        assert atoms.get_potential_energy() == pytest.approx((before.positions**2).sum() / 2)
        np.testing.assert_allclose(atoms.get_forces(), -before.positions, atol=1e-8)
        for name in ("direct_forces", "conservative_forces", "force_deltas"):
            np.testing.assert_allclose(atoms.arrays[name], before.arrays[name], atol=1e-8)
        kept = ("step", "time", "force_delta", "model_energy", "source", "model", "weights_hash")
        assert {name: atoms.info[name] for name in kept} == {
            name: before.info[name] for name in kept
        }
        error = before.arrays["direct_forces"] + before.positions
        assert atoms.info["epsilon"] == pytest.approx(np.sqrt((error**2).sum() / 9))
        assert atoms.info["reference"] == "spring 1: harmonic"


def test_charge_and_spin_make_another_structure_and_a_small_shift_does_too():
    water = molecule("H2O")
    others = [water.copy() for _ in range(4)]
    others[0].info["charge"] = 1
    others[1].info["spin"] = 3
    others[2].positions[0, 0] += 1e-4
    others[3].numbers[1] = 9
    assert len({key_of(atoms) for atoms in [water, *others]}) == 5
    same = water.copy()
    same.positions += 1e-9
    assert key_of(same) == key_of(water)


# --- the journal -------------------------------------------------------------------------------


def labelled_once(tmp_path: Path, n: int = 2) -> Path:
    """A journal with frames and labels, and the labelled file, without a calculation."""
    path = tmp_path / "out.xyz.journal"
    journal = Journal(path, Spring().description)
    for seed in range(n):
        atoms = doubtful(seed)
        label = Label(**Spring().calculate(atoms, 1), stress=None, seconds=0.1)
        journal.add_outcome(journal.add_frame(atoms), label)
    journal.close()
    with ThreadPoolExecutor(1) as executor:
        recalculate([], Spring(), tmp_path / "out.xyz", executor)
    return path


def test_a_half_written_line_loses_that_record_only(tmp_path):
    path = labelled_once(tmp_path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(whole[: -len(lines[-1]) // 2])
    journal = Journal(path, Spring().description)
    assert len(journal.frames) == 2
    assert len(journal.labels) == 1
    journal.close()
    assert path.read_bytes() == b"".join(lines[:-1])


def test_the_labelled_file_comes_back_from_the_journal_without_a_calculation(tmp_path):
    labelled_once(tmp_path)
    before = (tmp_path / "out.xyz").read_text()
    (tmp_path / "out.xyz").unlink()
    done = []
    with ThreadPoolExecutor(1) as executor:
        recalculate(
            [doubtful(0)],
            Spring(),
            tmp_path / "out.xyz",
            executor,
            report=lambda *x: done.append(x),
        )
    assert done == []
    assert (tmp_path / "out.xyz").read_text() == before


def test_positions_in_the_journal_are_exact(tmp_path):
    path = labelled_once(tmp_path, 1)
    record = json.loads(path.read_text().splitlines()[0])
    np.testing.assert_array_equal(decode(record["atoms"]).positions, doubtful(0).positions)


def test_two_levels_of_theory_are_not_mixed(tmp_path):
    path = labelled_once(tmp_path)
    with pytest.raises(HookError, match=r"another reference.*harmonic.*threads.*another output"):
        Journal(path, Threads().description)


def test_one_process_at_a_time_writes(tmp_path):
    path = labelled_once(tmp_path)
    first = Journal(path, Spring().description)
    with pytest.raises(HookError, match="in use by another process"):
        Journal(path, Spring().description)
    first.close()
    Journal(path, Spring().description).close()


@pytest.mark.parametrize("text", ["hello\n", "[1, 2]\n", '{"kind": "label"}\n'])
def test_another_file_is_no_journal(tmp_path, text):
    path = tmp_path / "out.xyz.journal"
    path.write_text(text)
    with pytest.raises(HookError, match=r"no journal.*line 1"):
        Journal(path, "x")
    assert path.read_text() == text


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "out.xyz").write_text("mine\n")
    with ThreadPoolExecutor(1) as executor, pytest.raises(HookError, match="has no journal"):
        recalculate([doubtful(0)], Spring(), tmp_path / "out.xyz", executor)
    assert (tmp_path / "out.xyz").read_text() == "mine\n"


def test_a_full_disk_is_told(tmp_path):
    journal = Journal(tmp_path / "out.xyz.journal", "x")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(HookError, match=r"cannot be written to.*free some space"):
            journal.add_frame(doubtful(0))
    finally:
        journal.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
