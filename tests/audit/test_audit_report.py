"""The report: one page that needs nothing else, and says of the frames what the file says."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from matplotlib.image import imread
from shaken import moving

from forcedelta.audit import audit
from forcedelta.cli import status
from md_hooks import Trajectory

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, tables and text of a page; every element has to be closed where it should."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, *heads: str) -> list[dict[str, str]]:
        """The rows of the one table that has these heads."""
        [table] = [table for table in self.tables if set(heads) <= set(table[0])]
        return [dict(zip(table[0], row, strict=True)) for row in table[1:]]

    def pictures(self) -> list[np.ndarray]:
        """Its images as arrays; each has to lie in the page itself."""
        found = []
        for tag, name, value in self.attributes:
            if (tag, name) == ("img", "src"):
                head, data = value.split(",", 1)
                assert head == "data:image/png;base64"
                found.append(imread(io.BytesIO(base64.b64decode(data, validate=True))))
        return found


def is_drawn(picture: np.ndarray) -> bool:
    """Whether a picture has a size and more on it than its background."""
    return min(picture.shape[:2]) > 400 and float(picture[..., :3].std()) > 0.02


@pytest.fixture(scope="module")
def shaken(tmp_path_factory) -> Path:
    """Ethanol that is shaken, with steps and times; one frame is another molecule, one is broken."""
    folder = tmp_path_factory.mktemp("shaken")
    images = moving()
    images[4] = Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])
    images[23].positions[2] = np.nan
    for k, atoms in enumerate(images):
        atoms.info.update(step=10 * k, time=5.0 * k)
    ase.io.write(folder / "move.traj", images)
    return folder / "move.traj"


@pytest.fixture(scope="module")
def audited(shaken, files) -> Trajectory:
    """An audit with flagged frames and one at which a run would stop; audit.html lies beside it."""
    wet, folder = files / "wet.safetensors", shaken.parent
    audit(shaken, wet, folder / "try.h5")
    u = Trajectory(folder / "try.h5").series["force_delta"]
    arguments = [
        "audit", shaken, "--model", wet, "--start", 1, "--every", 2, "--out", folder / "audit.h5",
        "--flag-above", float(np.nanquantile(u, 0.7)), "--report", folder / "audit.html",
    ]  # fmt: skip
    assert status([str(argument) for argument in arguments]) == 3
    return Trajectory(folder / "audit.h5")


@pytest.fixture(scope="module")
def page(audited) -> Page:
    return Page(audited.path.with_suffix(".html"))


def test_it_needs_nothing_else(page):
    used = {name for _, name, _ in page.attributes}
    tags = {tag for tag, _, _ in page.attributes}
    assert "http" not in page.source
    assert not tags & {"script", "link", "iframe", "object"}
    assert not used & {"srcset", "onload", "action"}
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    assert len(page.source) < 2_000_000


def test_its_pictures(audited, page):
    pictures = page.pictures()
    assert len(pictures) == 2  # over time, and the worst frame: one that is not finite is not drawn
    assert all(map(is_drawn, pictures))
    np.testing.assert_array_equal(imread(audited.path.with_suffix(".png")), pictures[0])


def test_marked_frames_are_those_of_the_file(audited, page, shaken):
    rows = page.table("step", "frame in file", "worst atom")
    series = audited.series
    marked = np.flatnonzero(series["action"])
    assert len(marked) > 3
    assert [int(row["step"]) for row in rows] == series["step"][marked].tolist()
    assert [int(row["frame in file"]) for row in rows] == series["source_frame"][marked].tolist()
    images = ase.io.read(shaken, ":")
    for k, row in zip(marked, rows, strict=True):
        assert row["file"] == str(shaken)
        assert row[""] == {1: "flagged", 2: "stop"}[int(series["action"][k])]
        assert float(row["time (fs)"]) == images[int(row["frame in file"])].info["time"]
        if row[""] == "flagged":
            assert float(row["U (eV/Å)"]) == pytest.approx(series["force_delta"][k], abs=6e-5)
            assert float(row["T (K)"]) == pytest.approx(series["temperature"][k], abs=0.6)
            atom = int(series["worst_atom"][k])
            assert row["worst atom"] == f"{images[int(row['frame in file'])].symbols[atom]}{atom}"
    assert rows[-1][""] == "stop"  # not finite


def test_elements(audited, page):
    rows = page.table("element", "largest")
    assert {row["element"]: int(row["atoms"]) for row in rows} == {"H": 6, "C": 2, "O": 1}
    deltas = {symbol: [] for symbol in "HCO"}
    for frame in audited.frames():
        if frame.force_deltas is not None and np.isfinite(frame.force_deltas).all():
            for number, symbol in ((1, "H"), (6, "C"), (8, "O")):
                deltas[symbol] += frame.force_deltas[frame.numbers == number].tolist()
    for row in rows:
        found = np.array(deltas[row["element"]])
        rms = float(row["rms ui (eV/Å)"])
        assert rms == pytest.approx(np.sqrt((found**2).mean()), abs=6e-5)
        assert float(row["largest"]) == pytest.approx(found.max(), abs=6e-5)


def test_its_words(audited, page):
    text = page.text
    assert "U ranks structures, it does not measure their error" in text
    assert "only reference calculations tell" in text
    assert audited.metadata["model"]["weights_hash"] in text
    assert "random numbers" not in text  # where weights come from is no fact for a chemist
    assert "level of theory" in text
    assert f"{audited.thresholds['flag']:.4g} eV/Å" in text
    assert "not finite" in text
    remarks = page.table("frame", "what")
    assert ("23", "not finite") in [(row["frame"], row["what"]) for row in remarks]


def test_names_are_escaped(files, here, forcedelta):
    name = "a<b>&c.xyz"
    Path(name).write_bytes((files / "move.xyz").read_bytes())
    wet = files / "wet.safetensors"
    assert forcedelta("audit", name, "--model", wet, "--report", "r.html")[0] == 0
    text = Page("r.html").text
    assert name in text
    assert "No threshold was set" in text


def test_plot_writes_the_same_of_a_stored_file(audited, page, here, forcedelta):
    code, out, _ = forcedelta("plot", audited.path, "--out", "plot.html")
    assert (code, out) == (0, "plot.html\n")
    assert Path("plot.html").read_text() == page.source
    assert is_drawn(imread("plot.png"))
    code, out, _ = forcedelta("plot", audited.path, "--out", "alone.png")
    assert (code, out) == (0, "alone.png\n")
    assert is_drawn(imread("alone.png"))


def test_a_report_of_a_run(files, here, forcedelta):
    ase.io.write("start.xyz", moving(1)[0], columns=["symbols", "positions"])
    wet = files / "wet.safetensors"
    assert forcedelta(
        "run", "start.xyz", "--model", wet, "--steps", 40, "--seed", 1, "--flag-above", 0.01,
    )[0] == 0  # fmt: skip
    assert forcedelta("plot", "run.h5", "--out", "run.html")[0] == 0
    written = Page("run.html")
    assert all(map(is_drawn, written.pictures()))
    rows = written.table("step", "worst atom")
    trajectory = Trajectory("run.h5")
    assert [int(row["step"]) for row in rows] == trajectory.flags.tolist()
    assert len(rows) == 41
    assert {row["file"] for row in rows} == {"run.h5"}
    assert "frame in file" not in rows[0]


def test_a_report_that_cannot_be_written(audited, here, forcedelta):
    Path("folder.html").mkdir()
    code, _, err = forcedelta("plot", audited.path, "--out", "folder.html")
    assert code == 2
    assert "folder.html cannot be written" in err.splitlines()[-1]
