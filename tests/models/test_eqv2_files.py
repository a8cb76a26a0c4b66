"""Checkpoints of EquiformerV2: the real size, what is refused, and names that need a download."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk
from eqv2_files import DENS_HEADS, HEADS, write_checkpoint
from systems import graph_of

from forcedelta import ForceDelta, ForceDeltaError
from forcedelta.installing import command
from forcedelta.models.eqv2.catalogue import FAMILY
from forcedelta.models.loaded import LoadedModel
from forcedelta.models.registry import load_model

if FAMILY.problem():
    pytest.skip(f"EquiformerV2: {FAMILY.problem()}", allow_module_level=True)

Content = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Content]:
    path = tmp_path_factory.mktemp("eqv2") / "small.pt"
    return path, write_checkpoint(path)


def load(path: Path, **options: Any) -> LoadedModel:
    return load_model(path, torch.float32, architecture="eqV2", **options)


def test_the_published_31m_at_its_real_size(tmp_path: Path) -> None:
    path = tmp_path / "eqV2_31M_omat.pt"
    content = write_checkpoint(path, "31M")
    path.touch()
    assert path.stat().st_size > 120e6
    model = load(path)
    assert model.metadata["parameters"] == 31_207_434
    assert model.cutoff == 12.0
    assert model.library == "fairchem-core 1.10.0"
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    result = ForceDelta(model.module)(*graph_of([atoms], torch.float32, model.cutoff))
    assert float(result["force_delta"]) > 0.01
    weights = model.module.backbone.sphere_embedding.weight
    assert torch.equal(weights, content["state_dict"]["module.backbone.sphere_embedding.weight"])


def test_what_is_told_of_a_model(written: tuple[Path, Content]) -> None:
    model = load(written[0])
    assert model.name == "small"
    assert model.elements == {1, 6, 8, 14}  # those with a reference
    assert model.periodic is None
    assert model.stress
    assert (
        model.weights_hash
        == load_model(written[0], torch.float64, architecture="eqV2_31M_omat").weights_hash
    )


def test_references_and_scales_are_applied(written: tuple[Path, Content], tmp_path: Path) -> None:
    """E = output * rmsd + mean + references, F = output * rmsd."""
    path, content = written
    bare = dict(content, normalizers={}, elementrefs={})
    torch.save(bare, tmp_path / "bare.pt")
    graph = graph_of([bulk("Si")], torch.float32, 6.0)
    scaled, plain = (ForceDelta(load(p).module)(*graph) for p in (path, tmp_path / "bare.pt"))
    expected = float(plain["energy"]) * 1.7 + 0.3 + 2 * -4.9
    assert abs(float(scaled["energy"]) - expected) < 1e-5
    assert torch.allclose(scaled["direct_forces"], 0.4 * plain["direct_forces"], atol=1e-6)
    assert load(tmp_path / "bare.pt").elements == set(range(1, 96))


def test_old_normalizers(written: tuple[Path, Content], tmp_path: Path) -> None:
    path, content = written
    old = {
        "target": {"mean": 0.3, "std": torch.tensor(1.7)},
        "grad_target": {"mean": 0.0, "std": 0.4},
    }
    torch.save(dict(content, normalizers=old), tmp_path / "old.pt")
    now, before = load(path).module.scales, load(tmp_path / "old.pt").module.scales
    assert before.keys() == now.keys()
    for name in now:
        assert before[name] == pytest.approx(now[name])


def _drop_head(content: Content) -> Content:
    config = {**content["config"], "model": dict(content["config"]["model"])}
    config["model"]["heads"] = {k: v for k, v in HEADS.items() if k != "forces"}
    return content | {"config": config}


def _edit_model(**changes: Any) -> Callable[[Content], Content]:
    def edit(content: Content) -> Content:
        model = content["config"]["model"] | changes
        return content | {"config": {**content["config"], "model": model}}

    return edit


def _edit_backbone(**changes: Any) -> Callable[[Content], Content]:
    def edit(content: Content) -> Content:
        return _edit_model(backbone=content["config"]["model"]["backbone"] | changes)(content)

    return edit


def _edit_weights(change: Callable[[Content], None]) -> Callable[[Content], Content]:
    def edit(content: Content) -> Content:
        state = dict(content["state_dict"])
        change(state)
        return content | {"state_dict": state}

    return edit


def _drop_force_weights(state: Content) -> None:
    for key in [key for key in state if "output_heads.forces" in key]:
        del state[key]


def _add_weight(state: Content) -> None:
    state["module.backbone.more"] = torch.zeros(2)


def _reshape_weight(state: Content) -> None:
    state["module.backbone.sphere_embedding.weight"] = torch.zeros(90, 12)


REFUSED: dict[str, tuple[Callable[[Content], Any], str]] = {
    "no force head": (_drop_head, "no head for direct forces"),
    "weights of the force head missing": (
        _edit_weights(_drop_force_weights),
        "lacks weights of the network in its config: output_heads.forces",
    ),
    "weights too many": (_edit_weights(_add_weight), "has weights that are not of.*backbone.more"),
    "weights of another shape": (_edit_weights(_reshape_weight), "of another shape"),
    "weights that are no tensors": (lambda c: c | {"state_dict": {"a": 1}}, "consist of tensors"),
    "another network": (
        _edit_backbone(model="gemnet_oc_backbone"),
        "'gemnet_oc_backbone', not Equi",
    ),
    "another model": (_edit_model(name="escn"), "of the kind 'escn'"),
    "the old layout": (
        lambda c: c | {"config": {"model": "equiformer_v2", "model_attributes": {}}},
        "of the kind 'equiformer_v2'",
    ),
    "code from elsewhere": (
        _edit_model(heads=HEADS | {"forces": {"module": "subprocess.Popen", "args": ["true"]}}),
        "its head 'forces' is of the kind 'subprocess.Popen'",
    ),
    "a path that only looks right": (
        _edit_backbone(model="fairchem.core.models.equiformer_v2.so3.SO3_Grid"),
        "not EquiformerV2",
    ),
    "an unfinished fine-tuning": (
        _edit_model(finetune_config={"starting_checkpoint": "eqV2_31M_omat.pt"}),
        "from which its training started",
    ),
    "settings from another version": (_edit_backbone(use_rope=True), "cannot build"),
    "normalised to nothing": (
        lambda c: (
            c | {"normalizers": {"forces": {"mean": torch.tensor(0.0), "rmsd": torch.tensor(0.0)}}}
        ),
        "rmsd of 0.0",
    ),
    "normalised by many": (
        lambda c: c | {"normalizers": {"energy": {"mean": torch.zeros(3), "rmsd": torch.ones(3)}}},
        "no single mean",
    ),
    "references of no shape": (
        lambda c: c | {"elementrefs": {"energy": {"element_references": torch.zeros(3, 3)}}},
        "not a list of numbers",
    ),
    "not a checkpoint": (lambda c: {"weights": torch.zeros(3)}, "no config and no state_dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(written: tuple[Path, Content], tmp_path: Path, case: str) -> None:
    change, text = REFUSED[case]
    path = tmp_path / "bad.pt"
    torch.save(change(written[1]), path)
    with pytest.raises(ForceDeltaError, match=text) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_heads_that_do_not_fit_the_backbone_are_refused(
    written: tuple[Path, Content], tmp_path: Path
) -> None:
    """Heads of the denoising kind have other names for their weights."""
    path = tmp_path / "bad.pt"
    torch.save(_edit_model(heads=DENS_HEADS)(written[1]), path)
    with pytest.raises(ForceDeltaError, match="lacks weights"):
        load(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_truncated_files(written: tuple[Path, Content], tmp_path: Path, share: float) -> None:
    whole = written[0].read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ForceDeltaError, match="not a complete checkpoint"):
        load(path)


class Surprise:
    """A file with one of these runs code when it is loaded with nothing held back."""

    ran = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _surprise, ()


def _surprise() -> str:
    Surprise.ran += 1
    return "ran"


def test_files_with_code_need_leave(written: tuple[Path, Content], tmp_path: Path) -> None:
    path = tmp_path / "objects.pt"
    torch.save(written[1] | {"val_metrics": Surprise()}, path)
    with pytest.raises(ForceDeltaError, match=r"_surprise\).*pass --trust"):
        load(path)
    assert Surprise.ran == 0
    assert load(path, trust=True).weights_hash == load(written[0]).weights_hash
    assert Surprise.ran == 1


def test_compiling_is_refused(written: tuple[Path, Content]) -> None:
    with pytest.raises(ForceDeltaError, match="omit --compile"):
        load(written[0], compile=True)


def test_without_a_network_the_error_says_where_the_weights_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ForceDeltaError) as caught:
        load_model("eqV2_dens_31M_mp")
    text = str(caught.value)
    assert "eqV2_dens_31M_mp.pt of facebook/OMAT24" in text
    assert "https://huggingface.co/facebook/OMAT24" in text
    assert "--model PATH/eqV2_dens_31M_mp.pt --architecture eqV2" in text


class _Gate(BaseHTTPRequestHandler):
    """Answers as the hub does to those who have not accepted a licence."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def test_gated_weights_say_where_the_licence_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    with ThreadingHTTPServer(("127.0.0.1", 0), _Gate) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ForceDeltaError) as caught:
            load_model("eqV2_86M_omat")
        server.shutdown()
    text = str(caught.value)
    assert "the licence must be accepted" in text
    assert "accept it at https://huggingface.co/facebook/OMAT24" in text
    assert "hf auth login" in text
    assert "--model PATH/eqV2_86M_omat.pt --architecture eqV2" in text


def test_a_package_that_fairchem_needs_is_missing(written: tuple[Path, Content]) -> None:
    """Somebody installed fairchem-core alone."""
    program = (
        "import sys\n"
        "sys.modules['torch_geometric'] = None\n"
        "from forcedelta import ForceDeltaError\n"
        "from forcedelta.models.registry import load_model\n"
        "try:\n"
        "    load_model(sys.argv[1], architecture='eqV2')\n"
        "except ForceDeltaError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, written[0]], capture_output=True, text=True, check=True
    )
    assert "torch_geometric" in done.stdout
    assert f"{command('eqv2')} && pip install --no-deps" in done.stdout


def test_logging_is_left_alone(written: tuple[Path, Content]) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().filters[:]
    load(written[0])
    assert (logging.getLogger().handlers, logging.getLogger().filters) == before
