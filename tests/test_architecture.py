"""The shape of the code: imports run one way between rooms, no circles between files, a quick command line."""
from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.begira_process import ROOT

ROOMS = ("core", "experiments", "slurm", "data_tools", "analysis")
ALLOWED = {"core": set(), "experiments": {"core"}, "slurm": {"core", "experiments"},
           "data_tools": {"core", "experiments"}, "analysis": {"core", "experiments"}, "begira": set(ROOMS)}
LINES = 400


def modules() -> dict[str, Path]:
    """{dotted name: file} of all our code."""
    files = [ROOT / "begira.py", *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(path: Path, package: str) -> dict[str, bool]:
    """{module: whether it is imported when the file is, not inside a function} of everything that a file imports."""
    tree, found = ast.parse(path.read_text()), {}
    late = {id(inner) for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[:len(package.split(".")) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            found[name] = found.get(name, False) or id(node) not in late
    return found


def against_the_grain(graph: dict[str, dict[str, bool]]) -> list[str]:
    """Imports that no arrow allows, also those inside functions."""
    wrong = []
    for name, targets in graph.items():
        room = name.partition(".")[0]
        for target in targets:
            other = target.partition(".")[0]
            if other != room and other in (*ROOMS, "begira") and other not in ALLOWED[room]:
                wrong.append(f"{name} imports {target}")
    return wrong


def circles(graph: dict[str, dict[str, bool]]) -> list[str]:
    """Circles of imports between files (imports inside functions left out: they break circles, and none is needed)."""
    known, state, found = set(graph), {}, []

    def visit(name: str, trail: list[str]) -> None:
        if state.get(name) == "open":
            found.append(" -> ".join([*trail[trail.index(name):], name]))
        if name in state:
            return
        state[name] = "open"
        for target in graph[name]:
            if target in known and target != name:
                visit(target, [*trail, name])
        state[name] = "closed"

    for name in graph:
        visit(name, [])
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, dict[str, bool]]:
    return {name: imported(path, name) for name, path in modules().items()}


def test_arrows_run_one_way(graph):
    assert against_the_grain(graph) == []
    assert len(against_the_grain({"core.x": {"slurm.y": True}, "slurm.z": {"analysis": False}})) == 2


def test_no_circles_between_files(graph):
    assert circles(graph) == []
    assert circles({"a": {"b": True}, "b": {"c": True}, "c": {"a": True}}) == ["a -> b -> c -> a"]


def test_nothing_imports_the_command_line(graph):
    assert [name for name, targets in graph.items() if name != "begira" and "begira" in targets] == []


def test_files_are_small_and_say_what_they_are():
    for name, path in modules().items():
        text = path.read_text()
        assert text.count("\n") <= LINES, f"{name} is two rooms"
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name} does not say what it is"


def test_command_line_is_quick():
    """`begira --help` as a process, the quickest of five: a busy machine must not fail it, a heavy import must."""
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "begira.py"), "--help"], check=True, capture_output=True)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.5


def test_help_imports_nothing_heavy():
    code = ("import sys; sys.argv = ['begira', '--help']; import begira\n"
            "try: begira.main()\nexcept SystemExit: pass\n"
            "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'numpy', 'pandas', 'scipy', "
            "'transformers', 'omegaconf', 'submitit', 'datasets', 'matplotlib', 'PIL'}))")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
