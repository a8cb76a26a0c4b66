"""Families of models: given by the user, or the library that publishes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forcedelta.comparison.table import Predictions
from forcedelta.errors import ForceDeltaError
from forcedelta.models.catalogue import family_of

ALL, OTHERS = "all", "others"


def check_families(given: Mapping[str, Sequence[str]]) -> None:
    """Refuse families without members, and models in two families.

    Raises:
        ForceDeltaError: see above.
    """
    seen: dict[str, str] = {}
    for family, members in given.items():
        if not family or not members or not all(members):
            raise ForceDeltaError(
                f"family '{family}' has no models: give --family NAME=MODEL,MODEL,..."
            )
        for member in members:
            if member in seen:
                both = f"twice in family '{family}'"
                if seen[member] != family:
                    both = f"in the families '{seen[member]}' and '{family}'"
                raise ForceDeltaError(f"model '{member}' is {both}: give it once")
            seen[member] = family


def families_of(
    models: Sequence[Predictions], given: Mapping[str, Sequence[str]] | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Members of each family by its name, and notes on models that are missing.

    Args:
        models: all of the comparison. Each belongs to one family.
        given: members by family; None: models of one library of `forcedelta.models.catalogue` are a
            family. Other models are the family "all", or "others" beside named families.
    """
    known = {model.name for model in models}
    notes = [
        f"family '{family}': there are no predictions of '{member}' (there are some of {', '.join(sorted(known))})"
        for family, members in (given or {}).items()
        for member in members
        if member not in known
    ]
    home = {member: family for family, members in (given or {}).items() for member in members}
    if given is None:
        for model in models:
            library = family_of(model.source)
            if library is not None:
                home[model.name] = library.key
    rest = OTHERS if any(model.name in home for model in models) else ALL
    found: dict[str, list[str]] = {}
    for model in models:
        found.setdefault(home.get(model.name, rest), []).append(model.name)
    return found, notes
