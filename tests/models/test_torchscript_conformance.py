"""A TorchScript file and the tests that every model has to pass."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from systems import CUTOFF, small_network

from forcedelta import load_model
from forcedelta.conformance import Conformance
from forcedelta.models import LoadedModel
from forcedelta.models.torchscript import DESCRIPTION

# torch deprecates TorchScript
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
NAMES = {torch.float32: "float32", torch.float64: "float64"}


class TestTorchScriptFile(Conformance):
    folder: ClassVar[Path]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _files(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.folder = tmp_path_factory.mktemp("scripts")
        for dtype, name in NAMES.items():
            facts = {"cutoff": CUTOFF, "dtype": name, "elements": ["H", "C", "O", "Si"]}
            scripted = torch.jit.script(small_network().to(dtype).eval())
            extra = {DESCRIPTION: json.dumps(facts)}
            torch.jit.save(scripted, str(cls.folder / f"{name}.pt"), _extra_files=extra)

    def load(self, dtype: torch.dtype) -> LoadedModel:
        return load_model(self.folder / f"{NAMES[dtype]}.pt", dtype)
