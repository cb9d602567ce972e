"""`python -m benchmarks [NAME ...] [--write FILE]`: what this machine can measure, a line each; exit code 1 if a gate
is missed. `--write` replaces the figures of a page, e.g. benchmarks/README.md."""
from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import HEADER, Row
from core.files import write_text

FOLDER = Path(__file__).resolve().parent
MARK = "ROW "
BEGIN, END = "<!-- begin figures -->", "<!-- end figures -->"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if "\ndef rows(" in path.read_text())


def machine() -> str:
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def run_one(name: str) -> int:
    """In a process of its own: print the rows of one benchmark for the parent to read."""
    import importlib

    for row in importlib.import_module(f"benchmarks.{name}").rows():
        print(MARK + row.json(), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names())}; all without one")
    parser.add_argument("--write", type=Path, help="page whose figures are replaced")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return run_one(options.one)
    if unknown := set(options.names) - set(names()):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(names())}")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    say(machine())
    say(HEADER)
    missed = 0
    for name in options.names or names():
        child = subprocess.run([sys.executable, "-m", "benchmarks", "--one", name], cwd=FOLDER.parent, text=True,
                               stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
        lines = [json.loads(line[len(MARK):]) for line in child.stdout.splitlines() if line.startswith(MARK)]
        for values in lines:
            row = Row(**{key: value for key, value in values.items() if key != "met"})
            missed += not row.met
            say(row.line())
        if child.returncode or not lines:
            missed += 1
            say(f"{name:44} failed with exit code {child.returncode}")
    if options.write:
        before, _, after = options.write.read_text().partition(BEGIN)
        lines = "\n".join(said)
        write_text(options.write, f"{before}{BEGIN}\n```\n{lines}\n```\n{END}{after.partition(END)[2]}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
