"""Tables in LaTeX print what they say, with the fonts that every installation has."""
import shutil
import subprocess

import pytest

from analysis.latex import escape, write_latex
from analysis.tables import Cell, Table

SAID = "less than 50 % (chrF < 20 | A & B > 3 #2)"


def test_comparisons_are_commands():
    assert escape("a < b > c | d") == r"a \textless{} b \textgreater{} c \textbar{} d"


@pytest.mark.skipif(shutil.which("pdflatex") is None or shutil.which("mutool") is None,
                    reason="no pdflatex or mutool here (Debian: texlive-latex-base, mupdf-tools)")
def test_the_printed_page_says_the_same(tmp_path):
    write_latex([Table("one", SAID, ["x"], [[Cell("1")]])], tmp_path)
    assert printed(tmp_path) == f"Table 1: {SAID}"
    fragment = tmp_path / "one.tex"      # the control: bare, it prints as an inverted exclamation mark
    fragment.write_text(fragment.read_text().replace(r"\textless{}", "<"))
    assert "\u00a1" in printed(tmp_path)


def printed(folder):
    """The caption on the first page."""
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"], cwd=folder, check=True,
                   capture_output=True)
    text = subprocess.run(["mutool", "draw", "-F", "txt", "all.pdf"], cwd=folder, check=True, capture_output=True,
                          text=True).stdout
    return next(line.strip() for line in text.splitlines() if line.startswith("Table"))
