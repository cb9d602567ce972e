"""A simulated study with free answers, and a judge that needs no images, for every test of judging."""
from __future__ import annotations

import json
from pathlib import Path

from analysis import judge
from analysis.judgements import table
from analysis.stores import place
from core.chat import Chat
from experiments.expand import expand
from experiments.grid import load
from tests.judge_server import serving
from tests.simulated_store import Truth, simulate

BLIND = judge.Judge("m", images=False, price_in=2.0, price_out=10.0)
ITEMS = 12


def simulated(runs: Path, ids: dict | None = None) -> Path:
    """The grid mini with three ratios, two seeds, free answers that get better with the ratio in Basque. ids: of the
    runs by place; those of the grid where none are given."""
    ids = {place(run): run.id for run in expand(load("mini")).runs} if ids is None else ids
    return simulate(runs, "mini-eu", ratios=(0.0, 0.2, 1.0), backbones=("llama",), text_only=("none",), seeds=(0, 1),
                    items=40, styles=("eval-emojione",), tasks=("naming",),
                    truth=Truth(target={0.0: .1, .2: .5, 1.0: .9}, run=.001, item=.1), ids=ids)


def judged_by(found, folder, share=0.0, who=BLIND, **more):
    """The judgements of a real server with a bias of `share`, and what it was asked."""
    with serving(folder.parent, share) as (address, log):
        judge.ask(judge.plan(found, who, folder, **more), folder, Chat(address))
    return table(folder), [json.loads(line) for line in log.read_text().splitlines()]
