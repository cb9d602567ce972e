"""Run ids: what changes them, what does not, and that they never change by accident."""
from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import config as schemas
from core.config import resolve
from core.errors import UserError
from experiments.identity import canonical, identity_config, run_id

PARENTS = {"align": "0123456789"}


def finetune(**values) -> str:
    return run_id("core.train:finetune", resolve("core.train:finetune", values), PARENTS)


def test_golden_ids():
    """These ids name finished runs on several clusters: if this fails, mark the new field `omit_if_default`."""
    assert run_id("tests.stages:count", {"steps": 6, "text": "ñ", "list": [1, {"a": None}]}, {}) == "d19df98ad8"
    assert run_id("tests.stages:count", {"steps": 6}, {"encoder": "d19df98ad8"}) == "b0b0b9d95b"


GOLDEN = {"core.encoder:encoder": "f2807e58cc", "core.backbone:backbone": "e9660f0c2a",
          "core.train:align": "0c64adac52", "core.train:finetune": "2695d27819", "core.evaluate:evaluate": "84af446733",
          "data_tools.translate:translate": "022a125b43", "data_tools.download:download": "db93bacdbc",
          "data_tools.translator:translator": "25d7d2ab48"}


@pytest.mark.parametrize("function", sorted(schemas.SCHEMAS))
def test_golden_ids_of_every_stage(function):
    assert run_id(function, resolve(function, {}), {}) == GOLDEN[function]


def test_runtime_does_not_count():
    assert finetune() == finetune(runtime={"nodes": 4, "workers": 8, "data_root": "elsewhere", "micro_batch": 2})


@pytest.mark.parametrize("values", [{"train": {"seed": 1}}, {"mixture": {"target_ratio": 0.2}},
                                    {"model": {"connector": "mlp2x_gelu"}}, {"pack": {"tokens": 4096}}])
def test_what_can_change_the_result_counts(values):
    assert finetune(**values) != finetune()


def test_parents_and_function_count():
    config = resolve("core.train:finetune", {})
    ids = {run_id("core.train:finetune", config, PARENTS), run_id("core.train:align", config, PARENTS),
           run_id("core.train:finetune", config, {"align": "0123456780"}), run_id("core.train:finetune", config, {})}
    assert len(ids) == 4


def test_spelled_out_defaults_do_not_count():
    assert finetune(train={"clip": 1, "seed": 0}) == finetune()


@given(st.integers(-2**50, 2**50))
def test_whole_floats_are_integers(number):
    assert canonical({"x": float(number)}) == canonical({"x": number})


leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.floats(-9, 9)
words = st.text("abcé", max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(words, leaves | st.lists(leaves, max_size=3) | st.dictionaries(words, leaves, max_size=3)))
def test_order_of_keys_does_not_count(mapping):
    assert canonical(mapping) == canonical(dict(reversed(list(mapping.items()))))


def test_true_is_not_one_and_nan_is_refused():
    assert canonical({"x": True}) != canonical({"x": 1})
    with pytest.raises(UserError, match=r"'train.lr' is nan"):
        canonical({"train": {"lr": float("nan")}})


def test_new_field_keeps_old_ids(monkeypatch):
    """A field that is omitted at its default leaves ids alone until it is used; without the mark it changes them."""
    @dataclass
    class Inner:
        old: int = 1
        new: float = field(default=0.5, metadata={"omit_if_default": True})

    @dataclass
    class Schema:
        inner: Inner = field(default_factory=Inner)
        many: list[Inner] = field(default_factory=list)
        extra: Inner = field(default_factory=Inner, metadata={"omit_if_default": True})

    monkeypatch.setitem(schemas.SCHEMAS, "a:b", Schema)
    monkeypatch.setitem(globals(), "Inner", Inner)
    Schema.__annotations__ = {"inner": Inner, "many": list[Inner], "extra": Inner}
    full = {"inner": {"old": 1, "new": 0.5}, "many": [{"old": 2, "new": 0.5}], "extra": {"old": 1, "new": 0.5}}
    assert identity_config("a:b", full) == {"inner": {"old": 1}, "many": [{"old": 2}]}
    changed = {**full, "inner": {"old": 1, "new": 0.6}}
    assert identity_config("a:b", changed)["inner"] == {"old": 1, "new": 0.6}
    assert run_id("a:b", full, {}) != run_id("a:b", changed, {})
