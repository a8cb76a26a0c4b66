"""The report: one page that needs nothing else, and says of the frames what the file says."""

from __future__ import annotations

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from shaken import moving

from forcedelta.audit import audit
from forcedelta.cli import status
from forcedelta.report.audit_figures import overview, png, points
from forcedelta.report.digest import Digest
from forcedelta.report.run_figure import ATOM_COLOUR, FLAG_COLOUR, STOP_COLOUR, U_COLOUR
from forcedelta.report.structure_view import MOST_ATOMS, view_of, viewer_library
from md_hooks import Frame, Trajectory

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags, tables and text of a page; every element has to be closed where it should."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.embedded: dict[str, str] = {}
        self._id: str | None = None
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self._id = dict(attrs).get("id")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] == ["script"]:
            if self._id is not None:
                self.embedded[self._id] = data
            return
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
    used = {(tag, name) for tag, name, _ in page.attributes}
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"link", "iframe", "object", "base"}
    assert ("script", "src") not in used
    assert not {name for _, name in used} & {"srcset", "onload", "action"}
    assert all(value.startswith("#") for _, name, value in page.attributes if name == "href")
    [policy] = [value for _, name, value in page.attributes if value.startswith("default-src")]
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed.pop("default-src") == "'none'"  # whatever a script on it asks for
    assert set(" ".join(allowed.values()).split()) == {"data:", "blob:", "'unsafe-inline'"}
    outside = page.source.replace(viewer_library(), "")
    assert len(page.source) - len(outside) > 500_000
    assert not any(word in outside for word in ("http:", "https:", "url(", "@import"))
    assert len(page.source) < 2_000_000


def test_its_pictures(audited, page):
    pictures = page.pictures()
    # over time, the worst frame, and the last one before that which is not finite
    assert len(pictures) == 3
    assert all(map(is_drawn, pictures))
    np.testing.assert_array_equal(imread(audited.path.with_suffix(".png")), pictures[0])


def test_what_the_pictures_show_is_told(audited, page):
    over_time, worst, last = [
        v for tag, name, v in page.attributes if (tag, name) == ("img", "alt")
    ]
    series = audited.series
    u, flags = series["force_delta"], audited.flags
    largest = int(np.nanargmax(u))
    assert f"largest {u[largest]:.3g} eV/Å at step {series['step'][largest]}" in over_time
    assert f"median {np.nanmedian(u):.3g} eV/Å" in over_time
    assert f"{len(flags)} frames flagged (above {audited.thresholds['flag']:.3g} eV/Å)" in over_time
    assert "step 230 is not finite" in over_time
    frame = audited.frame(audited.frame_steps.tolist().index(series["step"][largest]))
    atom = frame.worst_atom
    assert f"C2H6O at step {frame.step}" in worst
    assert f"{chemical_symbols[frame.numbers[atom]]}{atom} {frame.worst_force_delta:.2g}" in worst
    assert "at step 210" in last


def test_marked_frames_are_those_of_the_file(audited, page, shaken):
    rows = page.table("step", "frame in file", "worst atom")
    series = audited.series
    last = series["step"][-4:-1].tolist()
    flagged = np.flatnonzero(series["action"] == 1)
    shown = sorted({*flagged.tolist(), *range(len(series["step"]) - 4, len(series["step"]) - 1)})
    assert len(flagged) > 3
    assert set(last) - set(series["step"][flagged].tolist())  # one of them is below the threshold
    assert [int(row["step"]) for row in rows] == series["step"][shown].tolist()
    assert [int(row["frame in file"]) for row in rows] == series["source_frame"][shown].tolist()
    images = ase.io.read(shaken, ":")
    for k, row in zip(shown, rows, strict=True):
        assert row["file"] == str(shaken)
        marks = {0: "", 1: "flagged"}[int(series["action"][k])]
        assert row["mark"] == marks
        assert float(row["time (fs)"]) == images[int(row["frame in file"])].info["time"]
        assert float(row["U (eV/Å)"]) == pytest.approx(series["force_delta"][k], abs=6e-5)
        assert float(row["T (K)"]) == pytest.approx(series["temperature"][k], abs=0.6)
        atom = int(series["worst_atom"][k])
        assert row["worst atom"] == f"{images[int(row['frame in file'])].symbols[atom]}{atom}"
    assert "Step 230 is not finite" in page.text


def test_frames_in_three_dimensions_are_those_of_the_table(audited, page):
    """Atoms and u_i are those of the file; every row and every point of the plot has its frame."""
    [views] = json.loads(page.embedded["views"])
    stored = {frame.step: frame for frame in audited.frames()}
    rows = [int(row["step"]) for row in page.table("step", "frame in file", "worst atom")]
    assert [view["step"] for view in views] == rows
    for view in views:
        frame = stored[view["step"]]
        assert view["symbols"] == [chemical_symbols[number] for number in frame.numbers]
        np.testing.assert_allclose(view["positions"], frame.positions, atol=6e-4)
        np.testing.assert_allclose(view["deltas"], frame.force_deltas, rtol=1e-3)
        assert view["cell"] is None
    buttons = [int(value) for _, name, value in page.attributes if name == "data-step"]
    assert sorted(buttons) == sorted(2 * rows)


def test_points_of_the_plot_are_where_it_is_drawn(audited):
    """At the flagged frames the picture has the colour of flagged points."""
    digest = Digest(audited)
    figure = overview(digest)
    picture = imread(io.BytesIO(png(figure)))[..., :3]
    height, width = picture.shape[:2]
    found = [spot for spot in points(figure, digest) if spot[0].action == "flagged"]
    assert len(found) > 3
    for _, left, top in found:
        colour = picture[round(top * height), round(left * width)]
        np.testing.assert_allclose(colour, to_rgb(FLAG_COLOUR), atol=0.02)


def test_large_pages_are_bounded(audited):
    few = Digest(audited, most_viewed=20)
    largest = audited.series["step"][np.nanargmax(audited.series["force_delta"])]
    assert [view.step for view in few.views] == [largest, 210]  # of nine atoms each
    assert len(few.rows) == len(Digest(audited).rows)


def test_of_a_large_frame_the_surroundings_of_the_worst_atom_are_shown():
    atoms = bulk("Si", cubic=True) * (6, 6, 6)
    deltas = np.full(len(atoms), 0.1)
    deltas[100] = 1.0
    forces = np.zeros((len(atoms), 3))
    frame = Frame(
        step=3, time=0.0, numbers=atoms.numbers, positions=atoms.positions, velocities=None,
        masses=atoms.get_masses(), cell=atoms.cell.array, pbc=atoms.pbc, energy=0.0, forces=forces,
        temperature=None, force_delta=0.1, force_deltas=deltas,
    )  # fmt: skip
    view = view_of(frame)
    distances = atoms.get_distances(100, view.indices, mic=True)
    assert len(view.indices) == len(view.deltas) < MOST_ATOMS < view.atoms == len(atoms)
    assert distances.max() < 9.0
    assert view.deltas[view.indices.index(100)] == 1.0
    assert view.cell is None


def _contrast(one: str, other: str = "#ffffff") -> float:
    """Contrast ratio of two colours (WCAG 2.2, definitions of contrast ratio and relative luminance)."""
    light = []
    for colour in (one, other):
        values = np.array(to_rgb(colour))
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_contrasts(page):
    """AA of WCAG 2.2: text 4.5 (also on the boxes of verdicts), graphics 3."""
    colours = dict(re.findall(r"--(\w+): (#\w{6})", page.source))
    boxes = ["#ffffff", *re.findall(r"background: (#\w{6})", page.source)]
    assert len(boxes) > 5
    bar = "#c8551b"
    for name in ("text", "quiet", "flag", "stop"):
        assert min(_contrast(colours[name], box) for box in boxes if box != bar) > 4.5, name
    for colour in (FLAG_COLOUR, STOP_COLOUR, U_COLOUR, ATOM_COLOUR, bar):
        assert _contrast(colour) > 3, colour


def test_the_largest_are_listed_where_nothing_is_marked(files, here):
    ase.io.write("move.traj", moving(40))
    audit("move.traj", files / "wet.safetensors", "a.h5", report="a.html", record_every=7)
    page, series = Page("a.html"), Trajectory("a.h5").series
    assert "Frames with the largest U" in page.text
    rows = page.table("step", "frame in file", "worst atom")
    assert [int(row["step"]) for row in rows] == sorted(np.argsort(-series["force_delta"])[:10])
    numbers = moving(1)[0].symbols
    for row in rows:  # stored or not
        atom = int(series["worst_atom"][int(row["step"])])
        assert row["worst atom"] == f"{numbers[atom]}{atom}"


def test_statistics_are_of_all_steps(files, here):
    """Most steps of a run are not stored with their atoms: the largest u_i and its element are known still."""
    ase.io.write("move.traj", moving(40))
    audit("move.traj", files / "wet.safetensors", "all.h5")
    audit("move.traj", files / "wet.safetensors", "few.h5", record_every=20, report="few.html")
    every, few = Digest(Trajectory("all.h5")), Digest(Trajectory("few.h5"))
    assert (few.counted, few.all_steps, every.all_steps) == (3, 40, 40)
    assert sum(share.worst for share in few.elements) == 40
    found = {share.symbol: share for share in few.elements}
    top = max(every.elements, key=lambda share: share.largest)
    assert found[top.symbol].largest == top.largest
    assert {s.symbol: s.worst for s in every.elements} == {s.symbol: s.worst for s in few.elements}
    page = Page("few.html")
    assert "over all 40 frames with U" in page.text
    assert f"({few.quantiles()['maximum']:.4g} among all 40)" in page.text
    assert json.loads(page.embedded["views"])[0]


def test_explosions_fill_no_table(files, here):
    images = moving(30)
    for k in (*range(6, 20), 22):
        images[k].positions[1] = np.nan
    ase.io.write("move.traj", images)
    audit("move.traj", files / "wet.safetensors", "a.h5", report="a.html")
    page = Page("a.html")
    assert "Steps 6 to 19, 22 are not finite (15 frames)" in page.text
    rows = page.table("step", "frame in file", "worst atom")
    steps = [int(row["step"]) for row in rows]
    assert {3, 4, 5} <= set(steps)
    assert not set(steps) & {*range(6, 20), 22}
    assert "nan" not in " ".join(" ".join(row.values()) for row in rows)
    assert "at step 5," in " ".join(v for _, name, v in page.attributes if name == "alt")


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_files_that_failed_are_listed_with_their_reason(files, here, executor):
    ase.io.write("a.traj", moving(5))
    ase.io.write("c.traj", moving(5, seed=1))
    ase.io.write("gold.xyz", [Atoms("Au2", [[0, 0, 0], [0, 0, 2.5]])] * 2)
    Path("b.xyz").write_text("9\n\nC 0 0 0\n")
    with closing_executor(executor) as pool:
        results = audit(
            ["a.traj", "b.xyz", "gold.xyz", "c.traj"], files / "wet.safetensors", "many",
            report="all.html", executor=pool,
        )  # fmt: skip
    assert [result.audited for result in results] == [5, 0, 0, 5]
    assert [bool(result.problem) for result in results] == [False, True, True, False]
    page = Page("all.html")
    table = {row["trajectory"]: row for row in page.table("trajectory", "not audited")}
    assert list(table) == ["a.traj", "c.traj", "b.xyz", "gold.xyz"]
    assert table["a.traj"]["frames"] == table["c.traj"]["frames"] == "5"
    assert "holds no readable frame" in table["b.xyz"]["failed"]
    assert "Au" in table["gold.xyz"]["failed"]
    assert page.source.count("<h2") == 2


def closing_executor(kind):
    return nullcontext(None) if kind is None else kind(2)


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
