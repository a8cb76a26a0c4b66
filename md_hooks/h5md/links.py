"""Whether an HDF5 file of another program leads a reader into other files.

External links, external storage and virtual datasets are followed by every reader without a word,
so that a file from somebody else could have any file of the reader's shown in a report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py


def leads_elsewhere(path: str | Path) -> str | None:
    """What in an HDF5 file leads out of it, in words; None where nothing does.

    Links within the file, which H5MD is full of, are fine. A file whose structure cannot be read is
    not to be trusted either.
    """

    def link(name: str, found: Any) -> str | None:
        return (
            f"/{name} is a link into another file" if isinstance(found, h5py.ExternalLink) else None
        )

    def item(name: str, found: Any) -> str | None:
        if not isinstance(found, h5py.Dataset):
            return None
        made = found.id.get_create_plist()
        if made.get_external_count():
            return f"/{name} is stored in another file"
        if made.get_layout() == h5py.h5d.VIRTUAL:
            return f"/{name} is a view of another dataset"
        return None

    try:
        with h5py.File(path, "r", locking=False) as file:
            return file.visititems_links(link) or file.visititems(item)
    except Exception as error:  # HDF5 raises whatever a damaged file makes it raise
        return f"its structure cannot be read: {error}"
