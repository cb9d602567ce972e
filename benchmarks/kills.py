"""`python -m benchmarks.kills FOLDER [--kills 5] [--seed 0] [WORD ...]`: the study again, killed at random moments.

    FOLDER/data, FOLDER/runs/<study> (finished, undisturbed) -> the same runs in another store, killed -> compared

FOLDER is where `make study` was called, WORDs are those of `begira submit` (default: mini). In turn the driver and one
of its workers get SIGKILL; after a kill of the driver the command is given again. At the end every result, item and
model file must be the same, bit for bit, in both stores; times, places and logs may differ. Not part of `make bench`:
it takes as long as the study does.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.__main__ import machine
from benchmarks.study import descendants

PAUSE = 15.0, 60.0       # seconds from one kill to the next
RESTART = 2.0            # seconds before the command is given again
FAILURES = 3             # of the command, beside its kills, after which nothing more is tried
TIMES = {"seconds", "tokens_per_second", "samples_per_second", "data_wait", "spent"}


def victim(driver: int, whole: bool, rng: random.Random) -> int:
    """The driver itself, or one of the processes that work for it."""
    below = descendants(driver)[1:]
    return driver if whole or not below else rng.choice(below)


def content(store: Path) -> dict[str, str]:
    """By path below the store: the digest of everything that a finished run is for."""
    found = {}
    for done in sorted(store.glob("*/*/DONE")):
        run = done.parent
        result = json.loads((run / "result.json").read_text())
        kept = {key: value for key, value in result.items() if key not in TIMES}
        found[str((run / "result.json").relative_to(store))] = json.dumps(kept, sort_keys=True)
        for path in [*run.glob("items.parquet"), *run.glob("model/**/*")]:
            if path.is_file():
                found[str(path.relative_to(store))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def study(words: list[str], folder: Path, store: Path, kills: int, rng: random.Random) -> int:
    """Submit until all is done, killing on the way. Returns how many kills there was time for."""
    environment = {**os.environ, "BEGIRA_RUNS": str(store), "BEGIRA_DATA": str(folder / "data"), "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    made, started, failed = 0, time.monotonic(), 0
    while failed < FAILURES:
        command = subprocess.Popen([sys.executable, "-m", "begira", "submit", *words], env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        at = time.monotonic() + rng.uniform(*PAUSE)
        while command.poll() is None:
            if made < kills and time.monotonic() > at:
                process = victim(command.pid, made % 2 == 0, rng)
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    made += 1
                    who = "driver" if process == command.pid else "worker"
                    print(f"{time.monotonic() - started:6.0f} s  kill {made}: the {who}", flush=True)
                at = time.monotonic() + rng.uniform(*PAUSE)
            time.sleep(0.1)
        if command.returncode == 0:
            print(f"{time.monotonic() - started:6.0f} s  done", flush=True)
            return made
        if command.returncode != -signal.SIGKILL:
            failed += 1
            print(f"begira submit ended with {command.returncode}: {command.stderr.read().strip()[-500:]}", flush=True)
        time.sleep(RESTART)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="*", default=["mini"])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path("runs-killed"), help="an empty folder for the second store")
    options = parser.parse_args()
    folder, store = options.folder.resolve(), options.store.resolve()
    if store.exists():
        parser.error(f"{store} exists: name an empty place with --store")
    made = study(options.words, folder, store, options.kills, random.Random(options.seed))
    name, = (path.name for path in store.iterdir() if path.is_dir())
    killed, undisturbed = content(store / name), content(folder / "runs" / name)
    runs = {key.removesuffix("/result.json") for key in killed if key.endswith("/result.json")}
    wanted = {key for key in undisturbed if "/".join(key.split("/")[:2]) in runs}  # of earlier overrides, more
    different = sorted(key for key in killed.keys() | wanted if killed.get(key) != undisturbed.get(key))
    print(f"{machine()}\n{made} kills; {len(runs)} runs, {len(killed)} files compared, {len(different)} differ")
    print("".join(f"differs: {key}\n" for key in different), end="")
    return int(bool(different) or made < options.kills or not runs)


if __name__ == "__main__":
    sys.exit(main())
