"""Where the labels of frames would be of something else than the model computed: a line for each."""

from __future__ import annotations

from ase import Atoms

from forcedelta.labelling import vasp
from forcedelta.labelling.level_of_theory import difference
from forcedelta.labelling.references import ReferenceCode
from forcedelta.labelling.selection import Candidates
from md_hooks.electronic_state import ElectronicState
from md_hooks.environment import Surroundings

Reference = ReferenceCode | vasp.InputSet


def of_environments(frames: list[Atoms], made: Reference) -> tuple[Reference, list[str]]:
    """The reference in the field of the frames' environments, and a line where that is vacuum."""
    around = [Surroundings.usable(atoms) for atoms in frames]
    recorded = sum(one.environment is not None for one in around)
    embeds = False
    if isinstance(made, ReferenceCode):
        made = made.embedded() if recorded else made
        embeds = made.embeds
    parts = sum(one.others is not None for one in around)
    if embeds or not parts:
        return made, []
    why = "the environment is not recorded (environment=True of add_force_delta)"
    if recorded:
        why = "the reference takes no point charges, or is told not to"
    return made, [
        f"{parts} of {len(frames)} frames are parts of a System and are labelled in vacuum: {why}"
    ]


def of_electrons(frames: list[Atoms], charge: int | None, spin: int | None) -> list[str]:
    """Apply the given charge and spin to all frames in place, with a line where a frame differs."""
    lines = []
    for name, given in (("charge", charge), ("spin", spin)):
        if given is None:
            continue
        stored = [getattr(ElectronicState.of(atoms), name) for atoms in frames]
        others = [value for value in stored if value not in (None, given)]
        if others:
            values = ", ".join(str(value) for value in sorted(set(others)))
            lines.append(
                f"{len(others)} of {len(stored)} frames have {name} {values} and are labelled with "
                f"--{name} {given}"
            )
        for atoms in frames:
            atoms.info[name] = given
    return lines


def descriptions(made: Reference, frames: list[Atoms]) -> list[str]:
    """Code, version and settings; for VASP, one for each level of theory of the frames."""
    if isinstance(made, vasp.InputSet):
        levels = sorted({vasp.level(atoms) for atoms in frames})
        return [made.description(level) for level in levels] or [made.description()]
    return [made.description]


def of_levels(
    frames: list[Atoms], source: Candidates, made: Reference, references: list[str]
) -> list[str]:
    """Lines where the levels of theory of the labels differ from each other or from the model's.

    Args:
        frames: to be labelled.
        source: their file, which names the model.
        made: the reference.
        references: of `descriptions`.
    """
    lines = []
    if len(references) > 1:
        lines.append(
            "the frames have labels at PBE and at PBE+U, or with other values of U, as in the Materials "
            "Project: their energies do not go together; label the kinds one by one"
        )
    levels = [made.level] if isinstance(made, ReferenceCode) else [vasp.level(a) for a in frames]
    level = " or ".join(sorted(set(levels)))
    model = source.model.get("name") or "the model"
    trained = source.model.get("level_of_theory")
    if trained is None:
        return [
            *lines,
            f"{source.name} does not state the level of theory at which {model} was trained; labels at "
            f"{level} measure its error only if the levels agree",
        ]
    found = (difference(str(trained), reference) for reference in references)
    if differing := next(filter(None, found), None):
        verb = "differ" if " and " in differing else "differs"
        lines.append(
            f"{model} was trained at {trained}, the labels are at {level}: the {differing} {verb}; "
            "epsilon includes the difference of the levels, and the labels do not belong in its "
            "training set"
        )
    return lines
