"""Figures of a study: scores against the realised ratio, with 95 % intervals.

Series differ in colour (Okabe and Ito's, safe for colour-blind readers), marker, fill and line style, so that they stay
apart in grey; their names stand at the lines' ends. Drawn without pyplot: no global state, no display."""
from __future__ import annotations

from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.answers import Answers
from analysis.series import Line, backbone_names, line, lines, text_names
from analysis.study import Study
from core.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), "-", "--")
WIDTH, HEIGHT, LEFT, RIGHT = 10.0, 3.4, 0.6, 1.8  # inches; RIGHT of each panel is for the lines' names
BELOW, ABOVE = 0.145, 0.08                        # of HEIGHT, around each row of panels
SETTINGS = {"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
            "svg.fonttype": "path", "svg.hashsalt": "begira", "pdf.fonttype": 42, "figure.dpi": 100}


@dataclass(frozen=True)
class Theme:
    """Colours of one background."""

    paper: str
    ink: str
    muted: str
    grid: str
    band: str
    colours: tuple[str, ...]


LIGHT = Theme("#ffffff", "#1b1f24", "#5b6470", "#e4e7eb", "#e9eff6",
              ("#0060a8", "#c8500a", "#007a5a", "#8a3f7f", "#5b6470", "#a07000"))
DARK = Theme("#15181c", "#e8eaed", "#a3abb5", "#363c44", "#28323e",
             ("#6cb8f0", "#f0a050", "#4fcfa4", "#dd9ad2", "#a3abb5", "#e6cf4a"))


def figures(study: Study, answers: Answers, chance: float | None = None) -> dict[str, Figure]:
    """All figures by name; those that the study has no data for are left out."""
    import matplotlib as mpl

    made: dict[str, Any] = {}
    q, texts = study.questions, text_names(study)
    with mpl.rc_context(SETTINGS):
        made["ratio"] = ratio_figure(study, answers, chance)
        made["text-only"] = panels(study, q.text_axis, list(texts), texts, q.backbone_axis, q.backbone,
                                   backbone_names(study), chance)
        made["transfer"] = transfer_figure(study, chance)
    return {name: figure for name, figure in made.items() if figure is not None}


def ratio_figure(study: Study, answers: Answers, chance: float | None = None) -> Figure:
    """The main figure: target language left, base language right, one line per backbone, averaged over text-only."""
    q = study.questions
    figure, axes = _canvas(2)
    for ax, language, name in zip(axes, (q.target_language, q.base_language), (study.target, study.base), strict=True):
        drawn = lines(study, study.estimates(language), q.backbone_axis, q.backbone, backbone_names(study))
        _plot(ax, drawn)
        _describe(ax, study, f"{name}: {q.benchmark.replace('_', ' ')}", chance)
        if language == q.target_language and answers.curve is not None and answers.estimates.spread != "none":
            _enough(ax, answers)
    _finish(axes, chance, q.measure)
    return figure


def panels(study: Study, line_axis: str, levels: list, names: dict, panel_axis: str, panel_levels: list,
           panel_names: dict, chance: float | None = None) -> Figure | None:
    """One panel per level of one axis, one line per level of another, in the target language."""
    estimates = study.estimates(study.questions.target_language)
    axes_there = estimates is not None and {line_axis, panel_axis} <= set(estimates.conditions)
    if not axes_there or len(levels) < 2:
        return None
    figure, axes = _canvas(len(panel_levels))
    for ax, level in zip(axes, panel_levels, strict=True):
        _plot(ax, lines(study, estimates, line_axis, levels, names, {panel_axis: level}), shift=2)
        _describe(ax, study, f"{study.target}, {panel_names.get(level, level)}", chance)
    _finish(axes, chance, study.questions.measure)
    return figure


def transfer_figure(study: Study, chance: float | None = None) -> Figure | None:
    """Concepts seen with target-language text against those never seen with it, in both languages."""
    q = study.questions
    figure, axes = _canvas(2)
    for ax, language, name in zip(axes, (q.target_language, q.base_language), (study.target, study.base), strict=True):
        drawn = [line(study, study.estimates(language, group=group), label, role, {})
                 for role, (group, label) in enumerate((("A", "seen concepts"), ("B", "never seen")))]
        if any(one is None for one in drawn):
            return None
        _plot(ax, drawn)
        _describe(ax, study, name, chance)
    _finish(axes, chance, study.questions.measure)
    return figure


def _canvas(count: int) -> tuple[Figure, list[Axes]]:
    """Panels, two in a row."""
    from matplotlib.figure import Figure

    columns, rows = min(count, 2), (count + 1) // 2
    plot = (WIDTH - LEFT) / columns - RIGHT  # fixed inches are far cheaper than a layout engine
    figure = Figure(figsize=(WIDTH, HEIGHT * rows))
    figure.subplots_adjust(LEFT / WIDTH, BELOW / rows, 1 - RIGHT / WIDTH, 1 - ABOVE / rows, RIGHT / plot,
                           (BELOW + ABOVE) / (1 - BELOW - ABOVE))
    every = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    axes = every[:count]
    for ax in every[count:]:
        ax.remove()
    for ax in axes:
        ax.patch.set_alpha(0.0)
        ax.tick_params(colors=LIGHT.muted, labelcolor=LIGHT.muted, length=3)
        ax.yaxis.label.set_color(LIGHT.muted)
        ax.xaxis.label.set_color(LIGHT.muted)
        for spine in ax.spines.values():
            spine.set_color(LIGHT.muted)
        ax.grid(axis="y", color=LIGHT.grid, linewidth=0.8)
        ax.set_axisbelow(True)
    return figure, list(axes)


def _plot(ax: Axes, drawn: list[Line], shift: int = 0) -> None:
    """Curves with intervals, side by side where they would hide each other, named at their right ends."""
    offsets = (np.arange(len(drawn)) - (len(drawn) - 1) / 2) * 0.9
    for one, offset in zip(drawn, offsets, strict=True):
        style = (one.role + shift) % len(MARKERS)
        colour = LIGHT.colours[style]
        low, high = (np.where(np.isfinite(bound), bound, one.mean) for bound in (one.low, one.high))
        bars = [(one.mean - low) * 100, (high - one.mean) * 100]
        ax.errorbar(one.x * 100 + offset, one.mean * 100, yerr=bars, color=colour, linestyle=STYLES[style],
                    marker=MARKERS[style], markersize=5.5, linewidth=1.6, elinewidth=1.1, capsize=2.5,
                    zorder=3 + one.role,
                    markerfacecolor=colour if one.role % 2 == 0 else LIGHT.paper)
    _name_ends(ax, drawn, shift)


def _name_ends(ax: Axes, drawn: list[Line], shift: int) -> None:
    """Names right of the lines' ends, each behind its marker, pushed apart so that they do not overlap."""
    from matplotlib.transforms import ScaledTranslation

    if not drawn:
        return
    low = min(np.nanmin(np.where(np.isfinite(one.low), one.low, one.mean)) for one in drawn) * 100
    high = max(np.nanmax(np.where(np.isfinite(one.high), one.high, one.mean)) for one in drawn) * 100
    bottom, top = ax.get_ylim()
    step = max(high - low, top - bottom, 10) * 0.075
    order = sorted(drawn, key=lambda one: one.mean[-1])
    places = [one.mean[-1] * 100 for one in order]
    for _ in range(50):
        for below in range(len(places) - 1):
            overlap = step - (places[below + 1] - places[below])
            if overlap > 1e-9:
                places[below] -= overlap / 2
                places[below + 1] += overlap / 2
    end = max(one.x[-1] for one in drawn) * 100
    beside = ax.transData + ScaledTranslation(13 / 72, 0, ax.figure.dpi_scale_trans)
    for one, place in zip(order, places, strict=True):
        style = (one.role + shift) % len(MARKERS)
        colour = LIGHT.colours[style]
        ax.plot([end], [place], transform=beside, color=colour, marker=MARKERS[style], markersize=5, clip_on=False,
                markerfacecolor=colour if one.role % 2 == 0 else LIGHT.paper)
        ax.annotate(one.label, (end, place), xytext=(20, 0), textcoords="offset points", color=colour, va="center",
                    fontsize=8.5, annotation_clip=False)


def _describe(ax: Axes, study: Study, title: str, chance: float | None) -> None:
    ax.set_title(title, loc="left", color=LIGHT.ink, fontsize=10, fontweight="bold")
    ax.set_xlabel(f"{study.target} share of the image-text data, as realised (%)")
    ax.set_xlim(-3, 103)
    ax.set_xticks(sorted({round(study.realised(level) * 100) for level in study.levels(study.questions.ratio_axis)}))
    if chance:
        ax.axhline(chance * 100, color=LIGHT.muted, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        ax.annotate("chance", (0.5, chance * 100), xycoords=("axes fraction", "data"), xytext=(0, -3),
                    textcoords="offset points", ha="center", va="top", fontsize=7.5, color=LIGHT.muted)


def _finish(axes: list[Axes], chance: float | None, measure: str) -> None:
    """What needs all panels drawn: the shared limits, with room for words below the line of chance."""
    axes[0].set_ylabel("items answered correctly (%)" if measure == "score" else f"{measure} (%)")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(min(low, chance * 100 - 12) if chance else low, high)


def _enough(ax: Axes, answers: Answers) -> None:
    """Shade the ratios among which the smallest that is enough lies."""
    low, high = answers.curve.interval
    ax.axvspan(low * 100 - 0.4, high * 100 + 0.4, color=LIGHT.band, zorder=0, linewidth=0)
    ax.annotate("smallest ratio\nwithin the margin", ((low + high) * 50, 0.015), xycoords=("data", "axes fraction"),
                ha="center", va="bottom", fontsize=7.5, color=LIGHT.muted)


def svg(figure: Figure) -> bytes:
    """The figure as an SVG without background, in the colours of LIGHT: the same bytes for the same data."""
    import matplotlib as mpl

    buffer = BytesIO()
    with mpl.rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return buffer.getvalue()


def recoloured(drawn: bytes, theme: Theme) -> bytes:
    """An SVG of `svg` in the colours of another theme."""
    text = drawn.decode()
    for field in fields(Theme):
        old, new = getattr(LIGHT, field.name), getattr(theme, field.name)
        for one, other in zip(old, new, strict=True) if isinstance(old, tuple) else [(old, new)]:
            text = text.replace(one, other)
    return text.encode()


def write_figures(made: dict[str, Figure], out: Path) -> dict[str, Path]:
    """PNG (200 dots per inch) and PDF of each figure below `out`; their paths by file name."""
    import matplotlib as mpl

    paths = {}
    for name, figure in made.items():
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            path = Path(out) / f"{name}.{suffix}"
            with replacing(path) as temporary, mpl.rc_context(SETTINGS):
                figure.savefig(temporary, format=suffix, dpi=200, metadata=metadata)
            paths[path.name] = path
    return paths
