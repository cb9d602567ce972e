"""Runs are grouped into arrays that wait for exactly their parents, within the site's limits."""
from hypothesis import given
from hypothesis import strategies as st

from experiments.expand import Desired
from slurm.arrays import arrange
from slurm.resources import Request

ONE = Request("p", "", 1, 1, 1, 0, 1.0, 60)


def run(id_, stage, *parents):
    return Desired(id_, id_, "study", stage, "m:f", {}, {str(n): ("x", p) for n, p in enumerate(parents)}, {})


def plan(runs, done=(), live=None, max_array=1001, room=None):
    return arrange(runs, {r.id: ONE for r in runs}, set(done), live or {}, max_array, room)


def family(parents=3, children=4):
    align = [run(f"a{p}", "align") for p in range(parents)]
    finetune = [run(f"f{p}{c}", "finetune", f"a{p}") for p in range(parents) for c in range(children)]
    return [*align, *finetune, *(run(f"e{r.id}", "evaluate", r.id) for r in finetune)]


def test_shared_parents_and_chains():
    layout = plan(family())
    shapes = [(a.stage, len(a.runs), a.element_wise, [(r.array, r.index) for r in a.after]) for a in layout.arrays]
    assert shapes == [("align", 3, -1, []),
                      ("finetune", 4, -1, [(0, 0)]), ("finetune", 4, -1, [(0, 1)]), ("finetune", 4, -1, [(0, 2)]),
                      ("evaluate", 4, 1, []), ("evaluate", 4, 2, []), ("evaluate", 4, 3, [])]


def test_one_child_each_is_one_linked_array():
    layout = plan([run("a0", "x"), run("a1", "x"), run("b0", "y", "a0"), run("b1", "y", "a1")])
    assert [(a.stage, len(a.runs), a.element_wise) for a in layout.arrays] == [("x", 2, -1), ("y", 2, 0)]


def test_a_parent_stage_that_appears_late_still_comes_first():
    runs = [run("a", "x"), run("c0", "z", "a"), run("b", "y", "a"), run("c1", "z", "b")]
    assert [(a.stage, [r.id for r in a.runs]) for a in plan(runs).arrays] == [
        ("x", ["a"]), ("z", ["c0"]), ("y", ["b"]), ("z", ["c1"])]


def test_done_parents_are_not_waited_for_and_live_ones_are():
    layout = plan([run("b", "y", "done", "live")], done={"done"}, live={"live": "17_3"})
    assert [(r.run, r.job) for r in layout.arrays[0].after] == [("live", "17_3")]


def test_a_run_whose_parent_is_nowhere_waits():
    assert [r.id for r in plan([run("b", "y", "gone")]).waiting] == ["b"]


@given(st.integers(1, 6), st.integers(0, 5), st.integers(1, 7), st.one_of(st.none(), st.integers(0, 40)),
       st.sets(st.integers(0, 60)))
def test_limits_and_order_hold_for_any_study(parents, children, max_array, room, done):
    runs = family(parents, children)
    finished = set()
    for number, one in enumerate(runs):  # whatever is done has done parents
        if number in done and all(p in finished for _, p in one.parents.values()):
            finished.add(one.id)
    left = [one for one in runs if one.id not in finished]
    layout = plan(left, finished, max_array=max_array, room=room)
    placed = [one.id for array in layout.arrays for one in array.runs]
    assert sorted(placed + [one.id for one in layout.waiting]) == sorted(one.id for one in left)
    assert room is None or len(placed) == min(room, len(left))
    assert all(0 < len(array.runs) <= max_array for array in layout.arrays)
    seen = set(finished)
    for array in layout.arrays:
        for index, one in enumerate(array.runs):
            waits = {reference.run for reference in array.waits(layout.arrays, index)}
            assert waits == {p for _, p in one.parents.values() if p not in finished}
            assert waits <= seen
        seen |= {one.id for one in array.runs}
