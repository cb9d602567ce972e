"""The small picture of one answer: effect, interval and the zone of "yes", as inline SVG in the page's own colours."""
from __future__ import annotations

import math

from analysis.answers import Answer
from analysis.wording import points

WIDTH, HEIGHT, EDGE = 320, 46, 16


def forest(one: Answer, margin: float) -> str:
    """Inline SVG, or nothing where there is no effect to draw."""
    if one.contrast is None or not math.isfinite(one.effect):
        return ""
    low, high = (one.low, one.high) if math.isfinite(one.low) else (one.effect, one.effect)
    reach = max(abs(low), abs(high), 1.6 * margin) * 1.08

    def x(value: float) -> float:
        return round(EDGE + (min(max(value, -reach), reach) / reach + 1) / 2 * (WIDTH - 2 * EDGE), 1)

    begin, end = {"ratio": (-reach, margin), "backbone": (-margin, margin), "text_only": (0.0, reach)}[one.key]
    named = {"ratio": "enough", "backbone": "as good", "text_only": "helps"}[one.key]
    ticks = sorted({0.0, margin, -margin} if one.key == "backbone" else {0.0, margin})
    known = f"95 % interval {points(one.low, True)} to {points(one.high, True)}"
    label = f"effect {points(one.effect, True)} points, {known if math.isfinite(one.low) else 'interval unknown'}"
    parts = [f'<svg class="forest" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
             f'<rect class="band" x="{x(begin)}" y="3" width="{round(x(end) - x(begin), 1)}" height="26" rx="2"/>',
             f'<text x="{(x(begin) + x(end)) / 2:.1f}" y="11.5" text-anchor="middle">{named}</text>',
             f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="3" y2="32"/>',
             f'<line class="bar" x1="{x(low)}" x2="{x(high)}" y1="21" y2="21"/>',
             f'<circle class="dot" cx="{x(one.effect)}" cy="21" r="4.5"/>']
    parts += [f'<text x="{x(tick)}" y="43" text-anchor="middle">{points(tick, tick > 0) if tick else "0"}</text>'
              for tick in ticks]
    return "".join([*parts, "</svg>"])
