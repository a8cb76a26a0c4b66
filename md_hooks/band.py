"""The images of a nudged elastic band, of which a run shows the worst at each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from .ase_calculators import ForceDeltaSource
from .errors import HookError
from .frame import IMAGE


class Band:
    """The images that a dynamics moves together, as those of `ase.mep.NEB`.

    Images that share a calculator get one of their own each while a run lasts (`separate`), which keeps the
    results of its image: ASE alone would evaluate them anew at every request.

    Args:
        neb: an object of ASE with ``images``.

    Attributes:
        images: structures, of which the first and the last are the end points.

    Raises:
        HookError: images in other processes, with adaptive monitoring, or with one calculator that
            computes U at some evaluations only.
    """

    def __init__(self, neb: Any) -> None:
        self.images: list[Atoms] = list(neb.images)
        kind = type(neb).__name__
        if getattr(neb, "parallel", False) and getattr(getattr(neb, "world", None), "size", 1) > 1:
            raise HookError(
                f"the images of this {kind} are spread over processes, and hooks need all of them in one: "
                "make it with parallel=False"
            )
        self._shared: list[tuple[Atoms, Any]] = []
        self._sources = [ForceDeltaSource(image.calc) for image in self.images]
        models = [one.calculator for one in self._models()]
        if any(getattr(calc, "sentinel", None) is not None for calc in models):
            raise HookError(
                f"the images of this {kind} do not move in time, which adaptive monitoring needs: make "
                "their calculators with every=1"
            )
        if self._sharing() and any(getattr(calc, "every", 1) != 1 for calc in models):
            raise HookError(
                f"the images of this {kind} share a calculator, whose every counts the evaluations of all of "
                "them: make it with every=1, or give each image a calculator of its own"
            )

    @staticmethod
    def of(dynamics: Any) -> Band | None:
        """The band that a dynamics moves; None if it moves something else."""
        moved: Any = getattr(dynamics, "atoms", None)
        return Band(moved) if len(getattr(moved, "images", ())) else None

    def _sharing(self) -> list[Atoms]:
        """The images that have the calculator of another one, too."""
        calculators = [image.calc for image in self.images]
        return [
            image
            for image in self.images
            if image.calc is not None and sum(image.calc is calc for calc in calculators) > 1
        ]

    def separate(self) -> None:
        """Give images that share a calculator one of their own, until `release`."""
        for image in self._sharing():
            self._shared.append((image, image.calc))
        for image, calc in self._shared:
            image.calc = ImageCalculator(calc)

    def release(self) -> None:
        """Give shared calculators back to their images."""
        shared, self._shared = self._shared, []
        for image, calc in shared:
            if isinstance(image.calc, ImageCalculator):
                image.calc = calc

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the models of all images; None if they are not counted."""
        calculators = {id(one.calculator): one.calculator for one in self._models()}
        counts = [getattr(calculator, "evaluations", None) for calculator in calculators.values()]
        known = [int(count) for count in counts if count is not None]
        return sum(known) if known else None

    def _models(self) -> list[ForceDeltaSource]:
        """Where the models are: behind the calculators of images that share one."""
        return [
            ForceDeltaSource(one.calculator.shared)
            if isinstance(one.calculator, ImageCalculator)
            else one
            for one in self._sources
        ]

    def worst(self) -> Atoms:
        """The first image that is not finite, or else the one with the largest U.

        Where no U was computed, as between two exact evaluations, it is that of the highest energy.
        """
        return self.images[self._worst()]

    def _worst(self) -> int:
        for number, image in enumerate(self.images):
            if not _is_finite(image):
                return number
        last = len(self.images) - 1
        u = {i: value for i, value in enumerate(self._force_deltas()) if value is not None}
        if set(u) - {0, last}:  # the end points keep the U of their only evaluation
            return max(u, key=u.__getitem__)
        energies = dict(enumerate(self._energies()))
        moving = {i: energies[i] for i in range(1, last) if energies[i] is not None}
        return max(moving, key=moving.__getitem__) if moving else min(1, last)

    def scalars(self) -> Mapping[str, float]:
        """Number of the worst image, and U (eV/Å) and energy (eV) of each; NaN where not computed."""
        found = {IMAGE: float(self._worst())}
        for name, values in (("force_delta", self._force_deltas()), ("energy", self._energies())):
            for number, value in enumerate(values):
                found[f"{name}_image_{number}"] = np.nan if value is None else float(value)
        return found

    def _force_deltas(self) -> list[Any]:
        return [self._results(i).get("force_delta") for i in range(len(self.images))]

    def _results(self, number: int) -> Mapping[str, Any]:
        image = self.images[number]
        if not self._sources[number].is_of(image.calc):
            self._sources[number] = ForceDeltaSource(image.calc)
        computed_at = getattr(image.calc, "atoms", None)
        return self._sources[number].results(image if computed_at is None else computed_at)

    def _energies(self) -> list[Any]:
        return [(getattr(image.calc, "results", None) or {}).get("energy") for image in self.images]


def _is_finite(image: Atoms) -> bool:
    """Whether positions and all results of an image are finite numbers."""
    results = getattr(image.calc, "results", None) or {}
    judged = [results.get(name) for name in ("energy", "forces", "force_delta")]
    return all(
        np.isfinite(value).all() for value in (image.positions, *judged) if value is not None
    )


class ImageCalculator(Calculator):
    """One image's part of a calculator that several images share: it keeps the results of its image.

    Args:
        shared: any calculator of ASE. What a model inside of it predicts is kept, too.
    """

    def __init__(self, shared: Any) -> None:
        super().__init__()
        self.shared = shared
        self.model_info = getattr(ForceDeltaSource(shared).calculator, "model_info", None)
        self.implemented_properties = list(getattr(shared, "implemented_properties", ()))
        self.force_delta_due = False

    def _get_name(self) -> str:
        return str(getattr(self.shared, "name", type(self.shared).__name__))

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy", "forces"),
        system_changes: Any = all_changes,
    ) -> None:
        """Evaluate the shared calculator once and keep its results."""
        super().calculate(atoms, properties, system_changes)
        known = {} if system_changes else self.results  # a sum computes each property by itself
        for name in properties:
            self.shared.get_property(name, self.atoms)
        source = ForceDeltaSource(self.shared)
        assert self.atoms is not None
        predicted = source.results(self.atoms)
        self.force_delta_due = getattr(source.calculator, "force_delta_due", False)
        self.results = {**known, **predicted, **self.shared.results}
