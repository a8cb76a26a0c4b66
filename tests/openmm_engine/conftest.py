from __future__ import annotations

import pytest
from simulations import Frames


@pytest.fixture
def frames() -> Frames:
    return Frames()
