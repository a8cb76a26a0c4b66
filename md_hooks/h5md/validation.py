"""Whether an HDF5 file is what a Recorder writes: looked at once, before anything is read from it.

A file that comes from somewhere else can point to other files (links, external storage, virtual
datasets), claim sizes that it does not hold, or hold something else where numbers are expected.
Such a file is refused in one line, so that what reads the file can rely on `md_hooks.h5md.layout`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import HookError
from . import checksum, held, layout
from .remark import ROW

_MOST_OBJECTS = 10_000
_MOST_DEPTH = 8
_MOST_ATTRIBUTE_BYTES = 2**20
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_MOST_COMPRESSION = 2000
_LARGEST_NUMBER = 118


class DamagedError(HookError):
    """A recorded file that cannot be trusted."""


def damaged(path: str | Path, what: str) -> DamagedError:
    """The error for a file of which something is not as a Recorder writes it."""
    return DamagedError(
        f"{path} is damaged or cut off, or no recorded run ({what}): use a complete copy, or "
        "record it anew"
    )


def is_recorded(file: h5py.File) -> bool:
    """Whether a Recorder made the file, by what it says; no link to elsewhere is followed."""
    group: Any = file
    for name in ("h5md", "creator"):
        if not isinstance(_link(group, name), h5py.HardLink):
            return False
        group = group[name]
        if not isinstance(group, h5py.Group):
            return False
    found = group.attrs
    return _is_plain(found, "name") and _text(found["name"]) == layout.CREATOR


def check(file: h5py.File, path: str | Path) -> None:
    """Refuse a file that is not as a Recorder writes it.

    Raises:
        HookError: it was made by another program.
        DamagedError: it is not; the message says in what.
    """
    if not is_recorded(file):
        raise HookError(
            f"{path} was not written by a Recorder: read it with the program that wrote it, choose "
            "another file, or pass overwrite to replace it"
        )
    try:
        _check_objects(file)
        _check_runs(file)
        _check_series(file)
        _check_frames(file)
        _check_others(file)
    except _NotAsWrittenError as error:
        raise damaged(path, str(error)) from error


class _NotAsWrittenError(Exception):
    pass


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _NotAsWrittenError(what)


# --- objects and links ---------------------------------------------------------------------------


def _link(group: h5py.Group, name: str) -> Any:
    try:
        return group.get(name, getlink=True)
    except (TypeError, ValueError):  # a kind of link that h5py does not support
        return None


def _check_objects(file: h5py.File) -> None:
    """No link, dataset or attribute that leads out of the file."""
    count = 0

    def visit(group: h5py.Group, depth: int) -> None:
        nonlocal count
        _require(depth <= _MOST_DEPTH, f"groups within groups in {group.name}")
        _check_attributes(group)
        for name in group:
            count += 1
            _require(count <= _MOST_OBJECTS, f"more than {_MOST_OBJECTS} objects")
            where = f"{group.name.rstrip('/')}/{name}"
            _require(isinstance(_link(group, name), h5py.HardLink), f"{where} is a link elsewhere")
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item, depth + 1)
            else:
                _require(isinstance(item, h5py.Dataset), f"{where} is not a dataset")
                _check_storage(item)
                _check_attributes(item)

    visit(file["/"], 0)


def _check_storage(data: h5py.Dataset) -> None:
    made = data.id.get_create_plist()
    _require(made.get_external_count() == 0, f"{data.name} is stored in another file")
    _require(made.get_layout() != h5py.h5d.VIRTUAL, f"{data.name} is a view of another dataset")
    filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
    _require(filters <= _FILTERS, f"{data.name} has a filter of another program")
    _require(data.dtype.kind in "iufSV", f"{data.name} does not hold numbers")
    if data.dtype.kind == "V":
        _require(data.dtype == ROW, f"{data.name} does not hold numbers")


def _check_attributes(item: h5py.Group | h5py.Dataset) -> None:
    for name in item.attrs:
        _require(_is_plain(item.attrs, name), f"the attribute {name} of {item.name}")


def _is_plain(attributes: Any, name: str) -> bool:
    """Whether an attribute is there, small, and holds numbers or text."""
    if name not in attributes:
        return False
    found = attributes.get_id(name)
    kind = found.get_type().get_class()
    known = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
    return kind in known and found.get_storage_size() <= _MOST_ATTRIBUTE_BYTES


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


# --- runs ----------------------------------------------------------------------------------------


def _check_runs(file: h5py.File) -> None:
    runs = file.get(layout.RUNS)
    _require(isinstance(runs, h5py.Group), f"{layout.RUNS} is missing")
    for key in runs:
        run = runs[key]
        _require(key.isdecimal() and isinstance(run, h5py.Group), f"{layout.RUNS}/{key}")
        found = {}
        for name, kind in (("info", dict), ("outcome", dict), ("policies", list)):
            _require(name in run.attrs, f"run {key} has no {name}")
            text = run.attrs[name]
            _require(isinstance(text, str), f"the {name} of run {key} is not text")
            signed = file.get(layout.CHECKSUMS)
            mark = f"runs/{key}/{name}"
            if signed is not None and mark in signed.attrs:
                good = signed.attrs[mark] == checksum.of_bytes(text.encode(errors="replace"))
                _require(bool(np.all(good)), f"the {name} of run {key} does not fit its checksum")
            found[name] = _json(text, f"the {name} of run {key}")
            _require(isinstance(found[name], kind), f"the {name} of run {key}")
        for part in ("model", "settings", "versions"):
            given = found["info"].get(part, {})
            _require(isinstance(given, dict), f"the {part} in the info of run {key}")
        _require(isinstance(found["outcome"].get("reason", ""), str), f"the outcome of run {key}")
        for policy in found["policies"]:
            _require(isinstance(policy, dict), f"the policies of run {key}")
            if "stop_threshold" in policy:
                _require(
                    isinstance(policy.get("on"), str)
                    and all(_is_threshold(policy.get(f"{k}_threshold")) for k in ("stop", "flag")),
                    f"the thresholds of run {key}",
                )


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _NotAsWrittenError(what) from None


def _is_threshold(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


# --- series and frames ---------------------------------------------------------------------------


def _check_series(file: h5py.File) -> None:
    group = file.get(layout.PER_STEP)
    _require(group is None or isinstance(group, h5py.Group), f"{layout.PER_STEP}")
    if group is None or "step" not in group:
        _require(group is None or not len(group), f"{layout.SERIES_STEP} is missing")
        return
    known = {name: dtype for name, dtype, _ in layout.SERIES}
    rows = [_rows(file, f"{layout.PER_STEP}/{name}", kind, ()) for name, kind in _STEP_AND_TIME]
    for name in known:
        rows.append(_rows(file, f"{layout.PER_STEP}/{name}/value", known[name], ()))
    for name in set(group) - {"step", "time", *known}:
        kind = "i8" if name == "checksum" else "f8"
        _rows(file, f"{layout.PER_STEP}/{name}/value", kind, ())
    _require_held(rows, layout.PER_STEP, written_last=layout.CHECKSUMS in file)


_STEP_AND_TIME = (("step", "i8"), ("time", "f8"))


def _check_frames(file: h5py.File) -> None:
    """Every element has the type and shape of `md_hooks.h5md.layout`, for one number of atoms."""
    steps = file.get(layout.FRAME_STEP)
    if steps is None:
        left = set(file.get(layout.PARTICLES) or ()) | set(file.get(layout.OBSERVABLES) or ())
        _require(not left, f"{layout.FRAME_STEP} is missing")
        return
    n_atoms = 0
    for name in ("species", "position"):
        data = file.get(f"{layout.PARTICLES}/{name}/value")
        if data is not None:
            _require(len(data.shape) > 1 and data.shape[1] > 0, f"the shape of the {name}")
            n_atoms = max(n_atoms, data.shape[1])
    replay = f"{layout.PARTICLES}/mass/value" in file
    held = [
        _rows(file, f"{layout.PARTICLES}/position/{name}", kind, ())
        for name, kind in _STEP_AND_TIME
    ]
    for element in layout.PARTICLE_ELEMENTS:
        shape = element.shape(n_atoms)
        if element in layout.ENVIRONMENT_ELEMENTS:
            _check_environment(file, element)
            continue
        data = file.get(f"{element.path}/value")
        if replay and element.per_atom and data is not None and len(data.shape) > 1:
            shape = (min(data.shape[1], n_atoms), *shape[1:])  # it grows with the systems
        data = _rows(file, f"{element.path}/value", element.dtype, shape)
        if f"{element.path}/value" in layout.CORE:
            held.append(data)
    held.append(_rows(file, f"{layout.ACTION}/value", "i1", ()))
    _rows(file, f"{layout.CHECKSUM}/value", "i8", ())
    _require_held(held, layout.PARTICLES, written_last=layout.CHECKSUMS in file)
    if any(data is None or data.shape[0] == 0 for data in held):
        return
    _check_system(file, n_atoms)


def _check_environment(file: h5py.File, element: layout.Element) -> None:
    if layout.ENVIRONMENT not in file:
        return
    position = file.get(f"{layout.ENVIRONMENT}/position/value")
    _require(isinstance(position, h5py.Dataset), f"{layout.ENVIRONMENT} has no positions")
    _require(len(position.shape) == 3, f"the shape of {position.name}")
    shape = element.shape(position.shape[1])
    data = _rows(file, f"{element.path}/value", element.dtype, shape)
    _require(data is not None, f"{element.path} is missing")


def _rows(file: h5py.File, path: str, dtype: str, shape: tuple[int, ...]) -> h5py.Dataset | None:
    """A growing dataset of this type, with rows of this shape; None where there is none."""
    data = file.get(path)
    if data is None:
        return None
    _require(isinstance(data, h5py.Dataset), f"{path} is not a dataset")
    _require(data.dtype == np.dtype(dtype), f"{path} is of type {data.dtype}, not {dtype}")
    _require(data.shape[1:] == shape and len(data.shape) > 0, f"{path} has the shape {data.shape}")
    return data


def _require_held(core: list[h5py.Dataset | None], where: str, written_last: bool) -> None:
    """All of these are there, and the file is large enough for the rows that they claim.

    Args:
        core: the datasets, of which the first are the steps.
        where: the group.
        written_last: whether the steps are written last, so that nothing may be shorter; older
            versions did not write them last.
    """
    lengths = [0 if data is None else data.shape[0] for data in core]
    _require(None not in core or lengths[0] == 0, f"datasets are missing in {where}")
    for data, length in zip(core, lengths, strict=True):
        if data is not None and written_last:
            what = f"{data.name} has {length} rows and there are {lengths[0]} steps"
            _require(length >= lengths[0], what)
        if data is not None and min(lengths):
            _require_stored(data, min(lengths))


def _require_stored(data: h5py.Dataset, count: int) -> None:
    claimed = count * data.dtype.itemsize * math.prod(data.shape[1:])
    stored = data.id.get_storage_size()
    if data.id.get_create_plist().get_nfilters():
        stored *= _MOST_COMPRESSION
    _require(claimed <= stored, f"{data.name} claims {count} rows that are not in the file")


def _check_system(file: h5py.File, n_atoms: int) -> None:
    masses, box = file.get(layout.MASSES), file.get(f"{layout.PARTICLES}/box")
    _require(isinstance(masses, h5py.Dataset), f"{layout.MASSES} is missing")
    _require(masses.dtype.kind == "f" and len(masses.shape) == 1, "the type of the masses")
    _require_stored(masses, masses.shape[0])
    replay = f"{layout.PARTICLES}/mass/value" in file
    _require(masses.shape[0] == n_atoms or (replay and masses.shape[0] < n_atoms),
             f"there are {masses.shape[0]} masses for {n_atoms} atoms")  # fmt: skip
    values = masses[()]
    _require(bool((np.isfinite(values) & (values >= 0)).all()), "a mass is negative or not finite")
    _require("boundary" in box.attrs, "the box has no boundary")
    boundary = np.asarray(box.attrs["boundary"])
    words = [_text(word) for word in boundary.ravel()]
    _require(
        boundary.shape == (3,) and set(words) <= {"periodic", "none"},
        "the boundary of the box is not three times 'periodic' or 'none'",
    )
    signed = file.get(layout.CHECKSUMS)
    if signed is None:
        return
    for name, data in (
        ("masses", values.astype("f8").tobytes()), ("boundary", " ".join(words).encode()),
    ):  # fmt: skip
        if name in signed.attrs:
            good = bool(np.all(signed.attrs[name] == checksum.of_bytes(data)))
            _require(good, f"the {name} do not fit their checksum")


def _check_others(file: h5py.File) -> None:
    remarks = file.get(layout.REMARKS)
    if remarks is not None:
        _require(isinstance(remarks, h5py.Dataset) and remarks.dtype == ROW, layout.REMARKS)
        _require(len(remarks.shape) == 1, layout.REMARKS)
        if remarks.shape[0]:
            _require_stored(remarks, remarks.shape[0])
    _check_constraints(file)
    slots = file.get("/checkpoint")
    if slots is not None:
        _require(isinstance(slots, h5py.Group), "/checkpoint")
        for slot in slots.values():
            _require(
                isinstance(slot, h5py.Dataset) and slot.dtype == "u1" and len(slot.shape) == 1,
                "a checkpoint is not made of bytes",
            )
            _require_stored(slot, slot.shape[0])


def _check_constraints(file: h5py.File) -> None:
    data = file.get(layout.CONSTRAINTS)
    if data is not None:
        _require(isinstance(data, h5py.Dataset) and data.dtype == "u1", layout.CONSTRAINTS)
        _require(len(data.shape) == 1, layout.CONSTRAINTS)
        if data.shape[0]:
            _require_stored(data, data.shape[0])
    try:
        held.check(file)
    except held.ConstraintsError as error:
        raise _NotAsWrittenError(f"{error} is not as it was written") from None


# --- values --------------------------------------------------------------------------------------


def check_steps(path: Path, steps: NDArray[np.int64], what: str) -> None:
    """Refuse steps that do not grow."""
    wrong = np.flatnonzero(np.diff(steps) <= 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        raise damaged(path, f"{what} {row} is step {steps[row]}, after step {steps[row - 1]}")


def check_values(
    path: Path, what: str, first: int, values: dict[str, NDArray[Any]], n_atoms: int
) -> None:
    """Refuse codes and indices that stand for nothing.

    Args:
        path: the file.
        what: "step" or "frame", of which there is one per row.
        first: the row number of the first row.
        values: rows by name; of "action", "worst_atom" and "species" those that are there.
        n_atoms: number of atoms; 0 while it is not known.
    """
    ranges = {
        "action": (0, 2),
        "worst_atom": (-1, n_atoms - 1 if n_atoms else np.iinfo(np.int32).max),
        "species": (-1, _LARGEST_NUMBER),
    }
    for name, (low, high) in ranges.items():
        if name not in values:
            continue
        wrong = np.argwhere((values[name] < low) | (values[name] > high))
        if len(wrong):
            row = int(wrong[0][0])
            found = values[name][tuple(wrong[0])]
            raise damaged(path, f"{what} {first + row} has the {name.replace('_', ' ')} {found}")


def check_checksums(
    path: Path,
    what: str,
    first: int,
    steps: NDArray[np.int64],
    total: NDArray[np.uint64],
    known: NDArray[np.int64],
) -> None:
    """Refuse rows that are not those that were written; see `md_hooks.h5md.checksum`."""
    wrong = np.flatnonzero((checksum.stored(total) != known) & (known != checksum.UNKNOWN))
    if len(wrong):
        a, b = int(wrong[0]), int(wrong[-1])
        raise damaged(
            path,
            f"{len(wrong)} rows do not fit their checksums: {what}s {first + a} to {first + b}, "
            f"steps {steps[a]} to {steps[b]}",
        )
