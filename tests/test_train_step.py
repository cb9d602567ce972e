"""The engine under every ZeRO stage takes the very steps of a plain loop over the whole batch: unequal answer tokens
and images, accumulation, several ranks, clipping, parts frozen and trained. Real gloo ranks; each guard with what
happens without it."""
import pytest
import torch
from ranks import RankTimeout, run_ranks
from small import backbone_folder, inputs, packed, vision_folder

from core.assemble import assemble
from core.config import LearningRate, Model, Train
from core.distributed import joined
from core.engine import Engine
from core.forward import PackedModel
from core.train import freeze

RATE = 1e-3
pytestmark = pytest.mark.timeout(900)  # for the long ones
IMAGES = {"text-only rank": [[2, 1], [0, 0]], "1 against 5": [[1, 0], [3, 2]], "none": [[0, 0], [0, 0]]}
TRAINED = {"frozen": ["connector", "backbone"], "vision": ["vision", "connector", "backbone"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return vision_folder(root / "clip"), backbone_folder(root / "lm")


def model(folders, trained):
    built = assemble(*folders, Model(), seed=1)
    freeze(built, trained)
    return built, PackedModel(built.net)


def batches(built, steps, images, answers=(1, 20)):
    """steps x 4 packs; pack i of a step goes to rank i // (4 / ranks)."""
    rows = [count for rank in images for count in rank]
    return [[packed(built, [rows[i]], seed=100 * step + i, answers=answers, documents=(1, 3)) for i in range(4)]
            for step in range(steps)]


def settings(trained):
    return Train(trained=trained, global_batch=4, lr=LearningRate(vision=1e-5), dtype="float32", clip=1.0,
                 weight_decay=0.1)


def plain(folders, trained, steps, images):
    """Parameters and losses of a plain torch loop: one process, no DeepSpeed, one sum over the whole batch."""
    built, net = model(folders, trained)
    chosen = {n: p for n, p in net.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([{"params": [p for p in chosen.values() if p.dim() > 1], "weight_decay": 0.1},
                                   {"params": [p for p in chosen.values() if p.dim() < 2], "weight_decay": 0.0}],
                                  lr=RATE, betas=(0.9, 0.999))
    losses = []
    for packs in batches(built, steps, images):
        total = sum(net(*inputs(pack))[0] for pack in packs) / sum(pack.loss_tokens for pack in packs)
        total.backward()
        torch.nn.utils.clip_grad_norm_(list(chosen.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return {n: p.detach() for n, p in chosen.items()}, losses


def train(folders, stage, accumulation, trained, steps, images, world, guard=True):
    """The same through the engine, on this rank of `world`: parameters (on the first rank) and losses."""
    built, net = model(folders, trained)
    net.guard = guard
    micro = 4 // (world.size * accumulation)
    engine = Engine(net, settings(trained), world, stage, micro)
    losses = []
    for packs in batches(built, steps, images):
        share = len(packs) // world.size
        mine = packs[world.rank * share:(world.rank + 1) * share]
        tokens, = world.sum([sum(pack.loss_tokens for pack in mine)])
        total = 0.0
        for pack in mine:
            loss, _ = engine.forward(*inputs(pack))
            engine.backward(loss, tokens)
            total += loss.item()
        norms = engine.norms()
        engine.update(dict.fromkeys(norms, RATE), sum(n * n for n in norms.values()) ** 0.5)
        losses.append(world.sum([total])[0] / tokens)
    state = trained_state(engine, net)
    engine.destroy()
    return state, losses


def trained_state(engine, net):
    return {name: value for name, value in engine.state().items() if net.get_parameter(name).requires_grad}


def several(folders, cases, steps):
    with joined() as world:
        return [train(folders, stage, 4 // world.size, TRAINED[part], steps, IMAGES[images], world)
                for stage, part, images in cases]


def compare(folders, cases, size, steps, tolerance):
    found = run_ranks(several, size, folders, cases, steps, timeout=280)[0]
    for (stage, part, images), (state, losses) in zip(cases, found, strict=True):
        wanted, expected = plain(folders, TRAINED[part], steps, IMAGES[images])
        assert state.keys() == wanted.keys()
        for name, tensor in wanted.items():
            apart = (state[name] - tensor).abs().max().item()
            assert apart <= tolerance, f"ZeRO {stage}, {part}, {images}, {name}: {apart}"
        assert losses == pytest.approx(expected, abs=1e-6)


def test_three_steps_of_every_stage_equal_the_plain_loop(folders):
    compare(folders, [(stage, "frozen", "text-only rank") for stage in range(4)], 2, 3, 1e-5)


def test_a_trained_tower_and_ranks_without_images(folders):
    compare(folders, [(3, "vision", "1 against 5"), (2, "vision", "text-only rank")], 2, 3, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("part", TRAINED)
@pytest.mark.parametrize("stage", range(4))
def test_twenty_steps_of_every_mix_of_images(folders, stage, part, images):
    compare(folders, [(stage, part, images)], 2, 20, 1e-5)


def unguarded(folders, stage):
    with joined() as world:
        return train(folders, stage, 2, TRAINED["frozen"], 2, IMAGES["text-only rank"], world, guard=False)


@pytest.mark.parametrize("stage", [2, 3])
def test_negative_control_without_the_blank_image_ranks_wait_for_each_other(folders, stage):
    with pytest.raises((RankTimeout, AssertionError)):
        run_ranks(unguarded, 2, folders, stage, timeout=12)


@pytest.mark.parametrize("trained", [["connector"], TRAINED["frozen"], TRAINED["vision"]])
def test_gradient_checkpointing_changes_no_gradient(folders, trained):
    found = []
    for checkpointing in (False, True):
        built, net = model(folders, trained)
        if checkpointing:
            built.net.gradient_checkpointing_enable({"use_reentrant": False})
        net.train()(*inputs(packed(built, [2, 0])))[0].backward()
        found.append({name: p.grad for name, p in net.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def accumulated(folders, cases, answers):
    """One step of each (stage, accumulation): its parameters, loss and gradient norm."""
    found = []
    with joined() as world:
        for stage, accumulation in cases:
            built, net = model(folders, TRAINED["frozen"])
            batch = Train(trained=TRAINED["frozen"], global_batch=accumulation * world.size, dtype="float32")
            engine = Engine(net, batch, world, stage, 1)
            mine = [packed(built, [1], seed=10 * world.rank + i, answers=answers) for i in range(accumulation)]
            if accumulation > 1:
                mine[-1].labels.fill_(-100)
            counted = [int((pack.labels != -100).sum()) for pack in mine]
            tokens, = world.sum([sum(counted)])
            total = 0.0
            for pack in mine:
                loss, _ = engine.forward(*inputs(pack))
                engine.backward(loss, tokens)
                total += loss.item()
            norms = engine.norms()
            norm = sum(n * n for n in norms.values()) ** 0.5
            engine.update(dict.fromkeys(norms, RATE / 10), norm)
            trained = trained_state(engine, net)
            found.append((trained, world.sum([total])[0] / tokens, norm))
            engine.destroy()
    return found


def whole(folders, accumulation, size, answers):
    built, net = model(folders, TRAINED["frozen"])
    packs = [packed(built, [1], seed=10 * rank + i, answers=answers)
             for rank in range(size) for i in range(accumulation)]
    if accumulation > 1:
        for rank in range(size):
            packs[rank * accumulation + accumulation - 1].labels.fill_(-100)
    chosen = {n: p for n, p in net.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(chosen.values(), lr=RATE / 10, weight_decay=0.0)
    total = sum(net(*inputs(pack))[0] for pack in packs) / sum(int((pack.labels != -100).sum()) for pack in packs)
    total.backward()
    norm = torch.nn.utils.clip_grad_norm_(list(chosen.values()), 1.0)
    optimizer.step()
    return {n: p.detach() for n, p in chosen.items()}, total.item(), norm.item()


ALL = [(stage, accumulation) for stage in range(4) for accumulation in (1, 2, 4)]


@pytest.mark.parametrize(("size", "cases"), [
    (2, [(0, 1), (0, 4), (1, 2), (2, 4), (3, 2)]), pytest.param(2, ALL, marks=pytest.mark.slow),
    pytest.param(1, ALL, marks=pytest.mark.slow)])
def test_one_to_two_hundred_answer_tokens_over_accumulation_and_ranks(folders, size, cases):
    """A micro-batch without any supervised token is among them; all is finite and exact."""
    found = run_ranks(accumulated, size, folders, cases, (1, 200), timeout=280)[0]
    wanted = {accumulation: whole(folders, accumulation, size, (1, 200)) for accumulation in (1, 2, 4)}
    for (stage, accumulation), (state, loss, norm) in zip(cases, found, strict=True):
        parameters, expected, expected_norm = wanted[accumulation]
        assert loss == pytest.approx(expected, abs=1e-6)
        assert norm == pytest.approx(expected_norm, rel=1e-5)  # AdamW's first step would hide a wrong factor
        for name, tensor in parameters.items():
            apart = (state[name] - tensor).abs().max().item()
            assert apart <= 1e-6, f"ZeRO {stage}, accumulation {accumulation}, {name}: {apart}"
