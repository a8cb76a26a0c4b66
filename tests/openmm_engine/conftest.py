from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from simulations import Frames


@pytest.fixture
def frames() -> Frames:
    from simulations import Frames  # it needs OpenMM, without which its tests are skipped

    return Frames()
