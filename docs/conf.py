"""Builds the documentation: sphinx-build -W --keep-going -b html docs docs/_build/html.

Examples run while the site is built, in a copy below docs/_build, so that nothing is written next to them.
"""

import logging
import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_ext"))

import forcedelta  # noqa: E402

project = "forcedelta"
author = "The forcedelta developers"
copyright = author
version = release = forcedelta.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "generated",
    "mathml",
    "parameters",
]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = "forcedelta"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_show_search_summary = False  # it would fetch pages, which browsers refuse from a folder
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
# Prompts and outputs are not copied with the commands.
copybutton_prompt_text = "$ "

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "ase": ("https://ase-lib.org", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "openmm": ("https://docs.openmm.org/latest/api-python", None),
    "MDAnalysis": ("https://docs.mdanalysis.org/stable", None),
}
intersphinx_timeout = 5
# Names in single backticks are those of this package: `open` is a method of hooks, not Python's.
intersphinx_disabled_reftypes = ["py:obj"]


def is_no_missing_inventory(record: logging.LogRecord) -> bool:
    """Without a network there are no links to other projects; that warning has no type to suppress."""
    return not str(record.msg).startswith("failed to reach any of the inventories")


logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(is_no_missing_inventory)

GALLERY = DOCS / "_build" / "examples"
shutil.rmtree(GALLERY, ignore_errors=True)
shutil.copytree(ROOT / "examples", GALLERY, ignore=shutil.ignore_patterns("__pycache__"))
# Those that draw a figure run here, all others in .ci/run alone.
DRAWING = sorted(
    path.name
    for path in GALLERY.glob("*.py")
    if "figure.savefig(" in path.read_text(encoding="utf-8")
)

sphinx_gallery_conf = {
    "examples_dirs": str(GALLERY),
    "gallery_dirs": "gallery",
    "filename_pattern": "|".join(map(re.escape, DRAWING)),
    "within_subsection_order": "ExampleTitleSortKey",
    "reset_modules": ("matplotlib", "examples_run.name_the_file"),
    "min_reported_time": 1e9,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "download_all_examples": False,
}

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
default_role = "py:obj"
smartquotes = False  # they would turn the two hyphens of an option into a dash
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def local_links(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Links of files at the root, which are included here: files become downloads, folders lose the link."""

    def moved(link: re.Match[str]) -> str:
        text, target = link.groups()
        if (ROOT / target).is_file():
            return f"[{text}](../{target})"
        return f"`{target}`"

    content[0] = re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)#]+)\)", moved, content[0])


def setup(app: Sphinx) -> None:
    app.connect("include-read", local_links)
