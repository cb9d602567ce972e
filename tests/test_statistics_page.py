"""The numbers of docs/statistics.md are those of the command that stands above them."""
import re

from benchmarks.simulate_studies import BEGIN, END, World, arguments, grid, intervals
from benchmarks.simulate_studies import Simulated as Study
from tests.begira_process import ROOT

PAGE = (ROOT / "docs" / "statistics.md").read_text()


def test_the_printed_command_gives_as_many_studies():
    words = re.search(r"`python -m benchmarks\.simulate_studies ([^`]*)`", PAGE)[1].split()
    options, block = arguments(words), PAGE.partition(BEGIN)[2].partition(END)[0]
    assert options.write.name == "statistics.md"
    assert re.search(r"^(\d+) studies of", block, re.MULTILINE)[1] == str(options.studies)
    followed = re.findall(r"^(\d+) studies (?:with|in which)", block, re.MULTILINE)
    assert followed == [str(options.followed)] * 2 != [str(arguments([]).followed)] * 2


def test_every_interval_has_the_name_of_what_is_measured():
    study = Study(World())
    study.run(grid(range(2)))
    names = list(intervals(study.world, study.answers()[1]))
    assert re.findall(r"coverage of the 95 % interval, (.*):", PAGE) == names
