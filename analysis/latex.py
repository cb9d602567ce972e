"""Tables as LaTeX that compiles with or without booktabs: its rules become plain ones where the package is absent.

`all.tex` is a complete document of all tables, for a look; the others are fragments for \\input."""
from __future__ import annotations

from pathlib import Path

from analysis.tables import Cell, Table
from core.files import write_text

RULES = "\n".join(f"\\providecommand{{\\{name}}}{{\\hline}}" for name in ("toprule", "midrule", "bottomrule"))
# as commands, "<", ">" and "|" print as themselves in every font encoding; bare ones do so in T1 only
_SPECIAL = {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
            "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
            "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$",
            "±": r"$\pm$", "–": "--", "’": "'", "\u02bc": "'", "\u202f": r"\,", "\u00a0": "~"}


def escape(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)


def write_latex(tables: list[Table], out: Path) -> dict[str, Path]:
    """One fragment per table and `all.tex` below `out`; their paths by file name."""
    paths = {}
    for table in tables:
        paths[f"{table.name}.tex"] = Path(out) / f"{table.name}.tex"
        write_text(paths[f"{table.name}.tex"], fragment(table))
    document = "\n\n".join([r"\documentclass[a4paper,landscape]{article}", r"\usepackage[utf8]{inputenc}",
                            r"\ifdefined\pdfpagewidth\pdfpagewidth=29.7cm\pdfpageheight=21cm\fi",
                            r"\textwidth=26.7cm\textheight=17.5cm\oddsidemargin=-1.04cm\topmargin=-2cm",
                            r"\begin{document}", *(f"\\input{{{table.name}}}" for table in tables), r"\end{document}"])
    paths["all.tex"] = Path(out) / "all.tex"
    write_text(paths["all.tex"], document + "\n")
    return paths


def fragment(table: Table) -> str:
    """A table environment. Best scores are bold, those not shown to be worse are underlined."""
    columns = "l" * table.labels + "r" * (len(table.columns) - table.labels)
    lines = [RULES, r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
             f"\\caption{{{escape(table.caption)}}}", f"\\label{{tab:{table.name}}}",
             f"\\begin{{tabular}}{{{columns}}}", r"\toprule"]
    if table.heads:
        lines.append(" & ".join(f"\\multicolumn{{{count}}}{{{'l' if not label else 'c'}}}{{{escape(label)}}}"
                                for label, count in table.heads) + r" \\")
    lines.append(" & ".join(escape(name) for name in table.columns) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(_cell(cell) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.mark == "best":
        text = f"\\textbf{{{text}}}"
    elif cell.mark == "equal":
        text = f"\\underline{{{text}}}"
    return text + (f" {{\\tiny {escape(cell.note)}}}" if cell.note else "")
