"""How far raters agree beyond chance: Cohen's kappa for two, Krippendorff's alpha for any number with gaps.

Pure functions over labels; what is a unit and who is a rater is the caller's."""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence


def cohen_kappa(one: Sequence[Hashable], two: Sequence[Hashable]) -> float:
    """Kappa of two raters' labels of the same units (Cohen 1960). NaN without units or where both used one label only.

    Raises ValueError if the lengths differ."""
    if len(one) != len(two):
        raise ValueError(f"{len(one)} labels beside {len(two)}")
    n = len(one)
    if not n:
        return float("nan")
    observed = sum(a == b for a, b in zip(one, two, strict=True)) / n
    first, second = Counter(one), Counter(two)
    expected = sum(first[label] * second[label] for label in first) / n**2
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def krippendorff_alpha(ratings: Iterable[tuple[Hashable, Hashable, Hashable | float]], level: str = "nominal") -> float:
    """Alpha of (unit, rater, value) triples (Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011).

    level: nominal, or interval (values are numbers). Units with one value say nothing and are left out; NaN where no
    two values can be compared or all are equal."""
    units: dict[Hashable, dict[Hashable, Hashable]] = defaultdict(dict)
    for unit, rater, value in ratings:
        units[unit][rater] = value
    coincidences: Counter = Counter()
    for values in units.values():
        counts, m = Counter(values.values()), len(values)
        if m < 2:
            continue
        for a in counts:
            for b in counts:
                coincidences[a, b] += counts[a] * (counts[b] - (a == b)) / (m - 1)
    totals: Counter = Counter()
    for (a, _), count in coincidences.items():
        totals[a] += count
    n = sum(totals.values())
    distance = (lambda a, b: float(a != b)) if level == "nominal" else (lambda a, b: (a - b) ** 2)
    observed = sum(count * distance(a, b) for (a, b), count in coincidences.items())
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in totals for b in totals)
    return 1 - (n - 1) * observed / expected if expected else float("nan")
