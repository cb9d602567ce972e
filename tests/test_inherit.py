"""A finetune run goes on from the connector of its parent `align`, and from none that was trained for another."""
import json

import pytest
import torch
import trainruns
from ranks import run_ranks
from trainruns import finetune_run, site

from core.model import load_connector


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = site(tmp_path_factory.mktemp("site"))
    run_ranks(trainruns.train, 1, finetune_run(root, "align", trained=["connector"]))
    return root


def child(root, name, **model):
    """A run that starts from `align` and barely moves."""
    path = finetune_run(root, name, trained=["connector"], train={"lr": {"connector": 1e-12}})
    spec, config = (json.loads((path / file).read_text()) for file in ("spec.json", "config.yaml"))
    spec["parents"]["align"] = {"stage": "finetune", "id": "align"}
    config["model"].update(vision="parent:align", backbone="parent:align", **model)
    (path / "spec.json").write_text(json.dumps(spec))
    (path / "config.yaml").write_text(json.dumps(config))
    return path


def test_it_starts_from_the_connector_of_its_parent(root):
    path = child(root, "same")
    run_ranks(trainruns.train, 1, path)
    ours, theirs = (load_connector(one)[0] for one in (path, path.with_name("align")))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)


def test_a_connector_that_is_not_there_is_named(root):
    file = root / "runs" / "study" / "finetune" / "align" / "model" / "connector.safetensors"
    away = file.rename(file.with_name("away"))
    try:
        with pytest.raises(AssertionError, match=r"UserError: .*connector\.safetensors is missing: restore it"):
            run_ranks(trainruns.train, 1, child(root, "without"))
    finally:
        away.rename(file)


@pytest.mark.parametrize(("key", "ours", "theirs"), [
    ("connector", "mlp2x_gelu", "linear"), ("vision_layer", -1, "-2"), ("vision_select", "full", "default")])
def test_one_of_another_kind_or_other_features_is_refused(root, key, ours, theirs):
    said = rf"model\.{key} is {ours}, the connector of .*align was trained with {theirs}: give both runs the same"
    with pytest.raises(AssertionError, match=said):
        run_ranks(trainruns.train, 1, child(root, f"other-{key}", **{key: ours}))
