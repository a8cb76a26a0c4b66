"""EquiformerV2 in the conformance suite.

Its energy depends a little on the frames of the edges, and these on the order of the edges, so that
permutation, batches and rotations change it by that noise. The grid of this network is fine for its
degrees, which keeps the noise below the tolerances here; that nothing else changes, to the last bit,
is in test_eqv2_gradient and test_eqv2_agreement.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from eqv2_files import write_checkpoint

from forcedelta.conformance import Conformance, Tolerances
from forcedelta.models.eqv2.catalogue import FAMILY
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model

if FAMILY.problem():
    pytest.skip(f"EquiformerV2: {FAMILY.problem()}", allow_module_level=True)


class TestEquiformerV2(Conformance):
    # its calculator is float32, as the library's; neighbours beyond the 20th are cut off
    tolerances = Tolerances(
        same=1e-2, rotation=1e-2, frame=1e-2, jump=None, precision=1e-2, library=1e-2
    )
    directions = 6

    @classmethod
    def setup_class(cls) -> None:
        super().setup_class()
        cls.folder = TemporaryDirectory()
        cls.file = Path(cls.folder.name) / "fine.pt"
        write_checkpoint(cls.file, lmax_list=[2], mmax_list=[2], grid_resolution=18)

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.folder.cleanup()

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model(self.file, dtype, architecture="eqV2")
