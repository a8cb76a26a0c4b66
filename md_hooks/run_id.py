"""The id of a run, which distinguishes its frames from those of other runs.

File names do not: most runs are called ``run.h5``, files are moved and copied, and one file can be
reached by many paths. The id is drawn when a run starts, stored in its file, and copied with its
frames into flag stores, journals and labelled files, where frames of one run are correlated.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

import h5py
import numpy as np

from .h5md import layout

_ID = re.compile(r"[0-9a-f]{32}")


def new_run_id() -> str:
    """A random id: 32 hexadecimal digits."""
    return _never_a_number(uuid.uuid4().hex)


def id_of_content(parts: Iterable[bytes]) -> str:
    """An id computed from content, in the format of `new_run_id`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return _never_a_number(digest.hexdigest()[:32])


def is_run_id(value: object) -> bool:
    """Whether a value, for instance from ``atoms.info``, has the format of a run id."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _never_a_number(digits: str) -> str:
    """Extended XYZ has no quotes around digits: 32 of them would be read back as a number."""
    return digits if re.search("[abcdf]", digits) else "a" + digits[1:]


def stored_run_id(file: h5py.File) -> str:
    """The id of the run in an open recorded file; empty if no run has begun in it.

    For a file written before runs had ids, it is computed from content that does not change when
    the file grows or is copied: creator, description of the first run, and first frame.
    """
    runs = file.get(layout.RUNS)
    if runs is None or not len(runs):
        return ""
    texts = [str(runs[key].attrs["info"]) for key in sorted(runs, key=int)]
    for text in texts:
        found = json.loads(text).get("run_id")
        if is_run_id(found):
            return str(found)
    creator = file["h5md/creator"].attrs
    parts = [str(creator[name]).encode() for name in sorted(creator)] + [texts[0].encode()]
    for name in ("species", "position", "velocity"):
        rows: Any = file.get(f"{layout.PARTICLES}/{name}/value")
        if rows is not None and rows.shape[0]:
            parts.append(np.ascontiguousarray(rows[0]).tobytes())
    return id_of_content(parts)
