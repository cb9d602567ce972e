"""An installation that is no checkout has every grid, profile, prompt and page."""
from __future__ import annotations

import json
import subprocess
import sys

from tests.begira_process import ROOT
from tests.test_architecture import ROOMS

# what setuptools would copy beside the code, by the patterns of setup.cfg or by those given
LISTING = """
import json, os, sys
from setuptools.dist import Distribution
found = Distribution()
found.parse_config_files()
found.package_data = json.loads(sys.argv[1]) or found.package_data
command = found.get_command_obj("build_py")
command.ensure_finalized()
print(json.dumps([os.path.join(folder, name) for _, folder, _, names in command.data_files for name in names]))
"""


def packaged(patterns=None):
    done = subprocess.run([sys.executable, "-c", LISTING, json.dumps(patterns)], cwd=ROOT, capture_output=True,
                          text=True, check=True, timeout=120)
    return {ROOT / name for name in json.loads(done.stdout.splitlines()[-1])}


def test_every_file_that_is_no_code_is_packaged():
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {ROOT / name for name in listed.split() if not name.endswith(".py")}
    assert {"mini.yaml", "leonardo.yaml", "eu.yaml", "arena.html"} <= {path.name for path in wanted}
    assert wanted <= packaged()
    shallow = wanted - packaged({"": ["*.yaml", "*.html", "*.jinja"]})     # the control: one level is not enough
    assert {"grids", "mini", "profiles", "sources"} <= {path.parent.name for path in shallow}
