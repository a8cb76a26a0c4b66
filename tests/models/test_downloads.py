"""Published weights: the cache first, and a short and clear end where there is no network."""

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ase.io
import pytest
from systems import acetaldehyde

from forcedelta.cli import status
from forcedelta.models import downloads
from forcedelta.models.catalogue import families
from forcedelta.models.downloads import from_hub, reach


class _Answers(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        code = int(self.path.strip("/"))
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("code", [200, 302, 401, 403, 404, 500])
def test_any_answer_will_do(code: int, server: str) -> None:
    reach(f"{server}/{code}")


def test_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"no connection to 127\.0\.0\.1: Connection refused"):
        reach(f"http://127.0.0.1:{port}/file")
    with pytest.raises(ConnectionError, match=r"no connection to no\.such\.name\.invalid: "):
        reach("http://no.such.name.invalid/file")


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "PATIENCE", 0.1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(ConnectionError, match="no answer"):
            reach(f"http://127.0.0.1:{mute.getsockname()[1]}/file")


def test_what_is_in_the_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "models--some--where" / "snapshots" / "0" / "folder"
    snapshot.mkdir(parents=True)
    (snapshot / "weights.pt").write_bytes(b"weights")
    (snapshot.parents[2] / "refs").mkdir()
    (snapshot.parents[2] / "refs" / "main").write_text("0")

    def no_network(*arguments: object, **more: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with caplog.at_level(logging.INFO, "forcedelta"):
        found = from_hub("some/where", "weights.pt", "folder", cache=tmp_path)
    assert found.read_bytes() == b"weights"
    assert not caplog.records


@pytest.mark.parametrize("family", families(), ids=lambda family: family.key)
def test_without_a_network_each_library_ends_soon_and_in_two_lines(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The proxy is no proxy, so that no machine reaches the network."""
    if family.problem():
        pytest.skip(family.problem())
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    if family.key == "orb":
        common = pytest.importorskip("cached_path.common")
        monkeypatch.setattr(common, "CACHE_DIRECTORY", tmp_path)
    else:
        constants = pytest.importorskip("huggingface_hub").constants
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setenv("FAIRCHEM_CACHE_DIR", str(tmp_path))
        monkeypatch.delitem(sys.modules, "fairchem.core.calculate.pretrained_mlip", raising=False)
    requests = []
    monkeypatch.setattr(downloads, "reach", _counted(reach, requests))
    if family.key == "orb":
        monkeypatch.setattr("forcedelta.models.orb.loading.reach", _counted(reach, requests))
    ase.io.write(tmp_path / "start.xyz", acetaldehyde())
    model = family.published[0]
    assert status(["check", model.name, str(tmp_path / "start.xyz")]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f"downloading {model.weights} from ")
    assert "Connection refused" in second
    assert model.weights in second
    assert len(requests) == 1


def _counted(function, calls: list[str]):
    def call(address: str) -> None:
        calls.append(address)
        function(address)

    return call
