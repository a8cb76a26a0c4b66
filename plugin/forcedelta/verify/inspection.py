"""All measurements on one model and one structure, and the verdict."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms

from forcedelta.errors import ForceDeltaError
from forcedelta.evaluation import ExactEvaluation
from forcedelta.force_delta import last_line
from forcedelta.graph import charge_and_spin
from forcedelta.models.loaded import LoadedModel
from forcedelta.verify import agreement, findings, judge_behaviour, judge_forces, judge_heads
from forcedelta.verify.cost import cost
from forcedelta.verify.counting import count_passes
from forcedelta.verify.derivatives import gradient_error, stress_error
from forcedelta.verify.findings import Finding
from forcedelta.verify.heads import compare_heads
from forcedelta.verify.jumps import hidden_jump, neighbour_change
from forcedelta.verify.probe import Probe, displaced
from forcedelta.verify.rigid import rigid_parts
from forcedelta.verify.torch_state import changed, torch_state

DISPLACEMENT = 0.05  # Å
SMALL = 16  # atoms; finite differences along all coordinates up to this size
DIRECTIONS, QUICK_DIRECTIONS = 12, 6
COPIES = 4  # displaced copies on which both forces are compared
CHANGE_REACH, LINE_REACH = 0.3, 0.1  # Å
SKIPPED = [
    f"finite differences along more than {QUICK_DIRECTIONS} directions",
    "finite differences with the neighbours kept",
    "jumps of the energy that the model does not tell of",
    "4 of 6 rotations",
]

Verdict = Literal["sound", "usable with caveats", "not usable"]
Step = tuple[str, str, Callable[[], list[Finding]]]
"""Key, title and measurement."""


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        model: as loaded in the precision that was asked for.
        findings: one for each measurement.
    """

    model: LoadedModel
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        levels = {finding.level for finding in self.findings}
        if "bad" in levels:
            return "not usable"
        return "usable with caveats" if "caveat" in levels else "sound"

    @property
    def reasons(self) -> list[str]:
        """What is wrong, the worst first, each once."""
        whys = [f.why for level in ("bad", "caveat") for f in self.findings if f.level == level]
        return list(dict.fromkeys(whys))


class Inspector:
    """Measures a model on a structure.

    All but U itself is measured on a copy with displacements of 0.05 Å: in a symmetric structure
    forces vanish, and a wrong gradient with them. Derivatives, symmetries and jumps are measured in
    float64 where the model can be loaded in it.
    """

    def __init__(
        self,
        load: Callable[[torch.dtype], LoadedModel],
        atoms: Atoms,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        quick: bool = False,
    ) -> None:
        """Loads the model and evaluates it for the first time.

        Args:
            load: gives the model with weights of a dtype.
            atoms: the structure, with charge and spin in ``info`` for models that take them.
            dtype: in which the model is going to be used.
            device: where it is.
            quick: fewer directions, and no search for jumps that the model does not tell of.

        Raises:
            ForceDeltaError: the model cannot be loaded, or not asked about this structure.
        """
        before = torch_state()
        self.used = Probe(load(dtype), dtype, device)
        self._loading = changed(before, torch_state())
        self.used.check(atoms)
        self.atoms = displaced(atoms, DISPLACEMENT)
        self.quick = quick
        try:
            self.used.energy(self.used.graph(self.atoms))
        except ForceDeltaError:
            raise
        except Exception as error:  # whatever a library raises on a structure that it dislikes
            reason = last_line(error)
            raise ForceDeltaError(
                f"model '{self.used.model.name}' fails on this structure ({reason}); try another one"
            ) from error
        self._given = atoms
        self.exact = self.used if dtype == torch.float64 else self._in_float64(load, device)
        self._done: list[Finding] = []
        self._frame_noise = agreement.Change()
        self._noise = agreement.Change()
        self._resolution = 0.0

    def _in_float64(
        self, load: Callable[[torch.dtype], LoadedModel], device: torch.device | str
    ) -> Probe:
        try:
            exact = Probe(load(torch.float64), torch.float64, device)
            exact.energy(exact.graph(self.atoms))
        except Exception:  # many ways to say that float64 is not supported
            return self.used
        return exact

    @property
    def steps(self) -> list[Step]:
        """The measurements, in the order in which they are to be made."""
        return list(self._steps())

    def run(self, step: Step) -> list[Finding]:
        """Makes a measurement and keeps what it finds, also that it fails."""
        key, title, measure = step
        try:
            found = measure()
        except (ForceDeltaError, RuntimeError, ValueError, LookupError) as error:
            # of the model: that is a finding, too
            level: Literal["bad", "caveat"] = "bad" if key == "forces" else "caveat"
            found = [findings.failure(key, title, error, level)]
        self._done += found
        return found

    @property
    def hopeless(self) -> bool:
        """Whether there are no forces, so that nothing else can be measured."""
        return bool(self._done) and not (
            hasattr(self, "_first") and np.isfinite(self._first.force_delta)
        )

    def result(self) -> Inspection:
        """All findings so far."""
        return Inspection(self.used.model, tuple(self._done))

    def _steps(self) -> Iterator[Step]:
        atoms, exact, used = self.atoms, self.exact, self.used
        yield "forces", "direct and conservative forces", self._forces
        yield "heads", "forces by element", self._heads
        yield "gradient", "finite differences", self._gradient
        if atoms.pbc.all() and exact.model.stress:
            yield "stress", "stress", self._stress
        yield "repetition", "repeated evaluation", self._repetition
        yield "rigid", "net force and torque", self._rigid
        yield "rotation", "rotation", self._rotation
        yield self._symmetry("translation", "translation", agreement.translation)
        yield self._symmetry("permutation", "order of the atoms", agreement.permutation)
        if atoms.pbc.any():
            yield self._symmetry("images", "periodic images", agreement.wrapping)
        yield self._symmetry("batch", "batch", _batch)
        yield "history", "after another structure", self._history
        if not self._is_charged:
            yield "copies", "twice the structure", self._copies
        if not atoms.pbc.any() and len(atoms) > 2 and not exact.model.takes_charge_spin:
            yield "escaped", "an atom out of reach", self._escaped
        if exact.model.takes_charge_spin:
            yield "charge", "one more charge", self._charge
        if getattr(exact.model.module, "frame_seed", None) is not None:
            yield "frames", "random local frames", self._frames
        yield "neighbours", "change of neighbours", self._neighbours
        if not self.quick:
            yield "line", "jumps along a line", self._line
        else:
            yield "skipped", "left out by --quick", lambda: [judge_behaviour.skipped(SKIPPED)]
        if exact is not used:
            yield "precision", "float32 against float64", self._precision
        if used.model.calculator is not None:
            yield "library", "the library's calculator", self._library
        yield "passes", "passes", self._passes
        yield "settings", "settings of the process", self._settings
        yield "cost", "cost", self._cost

    def _forces(self) -> list[Finding]:
        self._first: ExactEvaluation = self.exact.evaluate(self.atoms)
        return [judge_forces.heads(self.used.evaluate(self._given), self._first)]

    def _heads(self) -> list[Finding]:
        others = [
            self.exact.evaluate(displaced(self._given, DISPLACEMENT, seed))
            for seed in range(1, COPIES)
        ]
        return [judge_heads.by_element(compare_heads(self.atoms, [self._first, *others]))]

    @property
    def _is_charged(self) -> bool:
        """Whether two copies would need another charge and spin than one."""
        info = self.atoms.info
        return self.exact.model.takes_charge_spin and (
            info.get("charge", 0) != 0 or info.get("spin", 1) != 1
        )

    @property
    def _u(self) -> float:
        """U, eV/Å, or where there is hardly any the least that would count."""
        return max(self._first.force_delta, findings.EQUAL_HEADS * self._size)

    @property
    def _size(self) -> float:
        """The largest force component, eV/Å, or 1."""
        forces = (self._first.direct_forces, self._first.conservative_forces)
        return max(1.0, *(float(np.abs(f).max()) for f in forces))

    def _gradient(self) -> list[Finding]:
        ways = QUICK_DIRECTIONS if self.quick else DIRECTIONS
        if len(self.atoms) <= SMALL and not self.quick:
            ways = 3 * SMALL
        graphs = ("rebuilt",) if self.quick else ("rebuilt", "fixed")
        found = {
            graph: gradient_error(self.exact, self.atoms, graph == "fixed", ways)
            for graph in graphs
        }
        self._resolution = max(error.resolution for error in found.values())
        return [judge_forces.gradient(error, self._u, graph) for graph, error in found.items()]

    def _stress(self) -> list[Finding]:
        return [judge_forces.stress(stress_error(self.exact, self.atoms))]

    def _precision(self) -> list[Finding]:
        found = agreement.precision(self.used, self.exact, self.atoms)
        return [judge_behaviour.precision(found, self._u)]

    def _rigid(self) -> list[Finding]:
        return [judge_forces.rigid(rigid_parts(self.atoms, self._first), len(self.atoms))]

    def _rotation(self) -> list[Finding]:
        found = agreement.rotation(self.exact, self.atoms, times=2 if self.quick else 6)
        return [judge_forces.rotation(found, self._u)]

    def _repetition(self) -> list[Finding]:
        found = agreement.repetition(self.exact, self.atoms)
        self._noise = replace(found, energy=found.energy + self._resolution)
        return [judge_behaviour.repetition(found, self._size, len(self.atoms), self._u)]

    def _history(self) -> list[Finding]:
        found = agreement.history(self.exact, self.atoms)
        return [judge_behaviour.history(found, self._noise, self._size, len(self.atoms), self._u)]

    def _copies(self) -> list[Finding]:
        found = agreement.copies(self.exact, self.atoms)
        size, count, periodic = self._size, len(self.atoms), bool(self.atoms.pbc.any())
        return [judge_behaviour.copies(found, self._noise, size, count, periodic)]

    def _escaped(self) -> list[Finding]:
        found = self.exact.evaluate(agreement.escaped(self.atoms, self.exact.model.cutoff))
        finite = bool(np.isfinite([found.energy, found.force_delta]).all())
        return [judge_behaviour.escaped(finite, self.atoms.symbols[-1])]

    def _charge(self) -> list[Finding]:
        other = self.atoms.copy()
        charge, spin = charge_and_spin(self.atoms, self.exact.model) or (0.0, 1.0)
        other.info.update(charge=charge + 1, spin=spin + 1 if spin < 2 else spin - 1)
        return [judge_behaviour.charged(agreement.change(self._first, self.exact.evaluate(other)))]

    def _symmetry(
        self, key: str, title: str, measure: Callable[[Probe, Atoms], agreement.Change]
    ) -> Step:
        def run() -> list[Finding]:
            found = measure(self.exact, self.atoms)
            size, count = self._size, len(self.atoms)
            return [judge_behaviour.symmetry(key, title, found, self._noise, size, count, self._u)]

        return key, title, run

    def _frames(self) -> list[Finding]:
        found = agreement.frame_noise(self.exact, self.atoms)
        if found is None:
            return []
        self._frame_noise = found
        return [judge_behaviour.frames(found, self._u)]

    def _neighbours(self) -> list[Finding]:
        found = neighbour_change(self.exact, self.atoms, CHANGE_REACH)
        return [judge_behaviour.neighbour(found, self._noise, CHANGE_REACH)]

    def _line(self) -> list[Finding]:
        found = hidden_jump(self.exact, self.atoms, LINE_REACH)
        return [judge_behaviour.line(found, self._noise, LINE_REACH)]

    def _library(self) -> list[Finding]:
        assert self.used.model.calculator is not None
        found = agreement.library(self.used, self.used.model.calculator(), self.atoms)
        noise = self._frame_noise
        return [judge_behaviour.library(found, noise, self._size, len(self.atoms))]

    def _passes(self) -> list[Finding]:
        free = sum(p.requires_grad for p in self.used.model.module.parameters())
        return [judge_behaviour.passes(count_passes(self.used, self.atoms), free)]

    def _settings(self) -> list[Finding]:
        before = torch_state()
        self.used.evaluate(self.atoms)
        return [judge_behaviour.settings(self._loading, changed(before, torch_state()))]

    def _cost(self) -> list[Finding]:
        make: Callable[[], Any] | None = self.used.model.calculator
        library = None if make is None else make()
        return [judge_behaviour.costs(cost(self.used, self.atoms, library))]


def _batch(probe: Probe, atoms: Atoms) -> agreement.Change:
    return agreement.batching(probe, [atoms, displaced(atoms, DISPLACEMENT, seed=1)])
