"""`python -m benchmarks.study FOLDER [make arguments]`: the miniature from a bare clone to its report, timed.

    git clone -> make study, with empty package and download caches -> seconds per phase, peak memory of all processes

Memory is the sum of the proportional set sizes (PSS) of every process that descends from `make`, read twice a second:
pages that forked workers share count once. Not part of `make bench`: it takes a quarter of an hour.
"""
from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.__main__ import machine

ROOT = Path(__file__).resolve().parent.parent
SECONDS, GIB = 900, 6.0     # the gates


def descendants(root: int) -> list[int]:
    """Process ids of `root` and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def memory(processes: list[int]) -> float:
    """Their proportional set size together, GiB."""
    total = 0
    for process in processes:
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)[1])
        except (OSError, TypeError):
            continue
    return total / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("arguments", nargs="*", help="of make, e.g. TARGET=cy")
    options = parser.parse_args()
    clone, caches = (options.folder.resolve() / name for name in ("begira", "caches"))
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    environment = {**os.environ, "PIP_CACHE_DIR": f"{caches}/pip", "npm_config_cache": f"{caches}/npm",
                   "BEGIRA_CACHE": f"{caches}/begira"}
    begun, peak = time.monotonic(), 0.0
    make = subprocess.Popen(["make", "study", *options.arguments], cwd=clone, env=environment, text=True,
                            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def show() -> None:
        for line in make.stdout:
            print(f"{time.monotonic() - begun:6.0f} s  {line}", end="", flush=True)

    printer = threading.Thread(target=show)
    printer.start()
    while make.poll() is None:
        peak = max(peak, memory(descendants(make.pid)))
        time.sleep(0.5)
    printer.join()
    seconds = time.monotonic() - begun
    print(f"{machine()}\nexit code {make.returncode}; {seconds:.0f} s (at most {SECONDS}); "
          f"peak memory {peak:.2f} GiB (at most {GIB:.0f})")
    return int(make.returncode != 0 or seconds > SECONDS or peak > GIB)


if __name__ == "__main__":
    sys.exit(main())
