"""Hooks that tell what they saw, and the dynamics of the tests of legs."""

from __future__ import annotations

from ase import units
from ase.md.verlet import VelocityVerlet

from md_hooks import Action, Hook

DT = 2.0 * units.fs


class Witness(Hook):
    """Notes what a user's own hook sees."""

    def __init__(self):
        self.frames, self.verdicts, self.infos, self.results = [], [], [], []

    def open(self, info):
        self.infos.append(info)

    def observe(self, frame, verdict):
        self.frames.append(frame)
        self.verdicts.append(verdict)

    def close(self, result):
        self.results.append(result)

    @property
    def steps(self):
        return [frame.step for frame in self.frames]


class Stop(Hook):
    """Stops at the given steps."""

    def __init__(self, *steps):
        self.steps = steps

    def __call__(self, frame):
        return Action.STOP if frame.step in self.steps else None


def verlet(atoms):
    return VelocityVerlet(atoms, DT)
