"""`begira board`: a folder that TensorBoard reads, made anew from the run directories. Nothing in them is touched.

    <out>/finetune/r0.2 latxa s0 -> runs/<study>/finetune/<id>/tb      scalars under readable names
    <out>/results/<name>                                               hyper-parameters and final scores, one per run
    <out>/curves/<backbone, text-only>                                 final scores over the ratio (step = percent)

A layout of custom charts puts losses, speed and the curves of each language side by side. TensorBoard selects no run by
default where there are more than 40; `CURVES` behind its address selects the curves."""
from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.collect import Collected, axis_column, collect
from analysis.events import events
from analysis.names import language_name
from analysis.questions import Questions
from analysis.stores import Stored

if TYPE_CHECKING:
    import pandas as pd

CURVES = "#custom_scalars&regexInput=%5Ecurves&_smoothingWeight=0"
LOSSES = {"loss": ["^loss$"], "loss by language and source": ["^loss/.*"], "gradient norm": ["^grad_norm$"],
          "learning rate": ["^lr(/.*)?$"], "validation loss": ["^validation/loss/.*"]}
SPEED = {"tokens per second": ["^tokens_per_second$"], "samples per second": ["^samples_per_second$"],
         "share of time waiting for data": ["^data_wait$"]}


def board(study_dir: Path | str, out: Path | str | None = None, selected: Iterable[str] | None = None) -> Path:
    """Make the folder for the study (default: `board` beside its stages) and return it, to be given to tensorboard.

    selected: ids of the runs to show, all by default. Raises UserError where there are no runs."""
    study_dir = Path(study_dir)
    out = Path(out) if out else study_dir / "board"
    collected = collect([study_dir])
    wanted = {run.id for run in collected.runs} if selected is None else set(selected)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for run in collected.runs:
        if run.id in wanted:
            _link(run, out)
    final = _final_scores(collected, wanted)
    if len(final):
        _results(collected, final, out)
    tags = _curves(collected, final, out) if len(final) else []
    with events(out / "curves") as write:
        write.layout({**_curve_charts(tags), "losses": LOSSES, "speed": SPEED})
    return out


def readable(run: Stored) -> str:
    """The run's name without its stage, as a folder's name; its stage where nothing is left."""
    return _folder(run.name.removeprefix(run.stage).strip(" -_") or run.stage)


def _folder(name: str) -> str:
    return re.sub(r"[^\w.,=+% -]", "_", name)


def _link(run: Stored, out: Path) -> None:
    """A symlink to the run's events, unless it has none; runs of one name are told apart by their ids."""
    if not (run.path / "tb").is_dir():
        return
    place = out / run.stage / readable(run)
    if place.is_symlink():
        place = place.with_name(f"{place.name} {run.id}")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath((run.path / "tb").resolve(), place.parent.resolve()))


def _final_scores(collected: Collected, wanted: set[str]) -> pd.DataFrame:
    """Scores over all items of subsets that are not for development, with a column `tag`: language/benchmark."""
    scores = collected.scores
    held_out = (scores["slice"] == "all") & ~scores["subset"].astype(str).str.contains("dev")
    kept = scores[held_out & scores["metric"].isin(["accuracy", "exact", "chrf"]) & scores["run"].isin(wanted)]
    metric = kept["metric"].where(kept["metric"] != "accuracy", "").map(lambda name: f" {name}" if name else "")
    return kept.assign(tag=kept["language"] + "/" + kept["benchmark"] + metric)


def _results(collected: Collected, final: pd.DataFrame, out: Path) -> None:
    """One session of the HParams tab per evaluation."""
    axes = {axis: axis_column(axis) for axis in collected.axes}
    numbers = {axis: final[column].dtype.kind in "fiu" for axis, column in axes.items()}
    by_id = {run.id: run for run in collected.runs}
    with events(out / "results") as write:
        write.experiment({**numbers, "run id": False}, sorted(final["tag"].unique()))
    for run, rows in final.groupby("run", sort=True):
        values = {axis: _plain(rows[column].iloc[0]) for axis, column in axes.items()}
        folder = readable(by_id[run])
        folder = f"{folder} {run}" if (out / "results" / folder).exists() else folder
        with events(out / "results" / folder) as write:
            write.session({"run id": run, **{axis: value for axis, value in values.items() if value is not None}})
            for tag, value in rows.groupby("tag")["value"].mean().items():
                write.scalar(tag, float(value))


def _curves(collected: Collected, final: pd.DataFrame, out: Path) -> list[str]:
    """Scores over the ratio, one run per combination of the other axes, averaged over seeds. Returns the tags."""
    names = Questions()
    ratio = axis_column(names.ratio_axis)
    if ratio not in final:
        return []
    others = [axis_column(axis) for axis in collected.axes if axis not in (names.ratio_axis, names.seed_axis)]
    for key, rows in final.groupby(others, sort=True) if others else [(("all",), final)]:
        with events(out / "curves" / _folder(", ".join(map(str, key)))) as write:
            for (tag, level), value in rows.groupby(["tag", ratio])["value"].mean().items():
                write.scalar(f"ratio/{tag}", float(value), round(float(level) * 100))
    return sorted(f"ratio/{tag}" for tag in final["tag"].unique())


def _curve_charts(tags: list[str]) -> dict[str, dict[str, list[str]]]:
    charts: dict[str, dict[str, list[str]]] = {}
    for tag in tags:
        _, code, benchmark = tag.split("/", 2)
        title = f"{language_name(code)} scores over the ratio (step = percent)"
        charts.setdefault(title, {})[benchmark] = [f"^{re.escape(tag)}$"]
    return charts


def _plain(value: Any) -> Any:
    if value is None or value != value:
        return None
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, (int, float, str)) else str(value)
