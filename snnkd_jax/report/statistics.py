"""Statistics over seeds: values ± sample standard deviation, differences ± standard error."""

import statistics
from collections.abc import Iterable
from typing import Any


def over_seeds(values: Iterable[float]) -> dict[str, Any]:
    """`values`, their `mean`, and `std`, the sample standard deviation, None for one seed."""
    values = list(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"values": values, "mean": statistics.fmean(values), "std": std}


def mean_and_std(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation, the mean alone for one value, "–" for none."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def percent(accuracies: list[float]) -> str:
    """Accuracies in [0, 1] as mean ± standard deviation in %."""
    return mean_and_std([100 * accuracy for accuracy in accuracies], 2)


def standard_error(values: list[float]) -> float:
    """The standard error of the mean of two or more values."""
    return statistics.stdev(values) / len(values) ** 0.5


def gain(accuracies: Iterable[float], than: Iterable[float]) -> str:
    """The mean difference in points between networks of the same seed, ± its standard error."""
    return points([a - b for a, b in zip(accuracies, than, strict=True)])


def points(differences: list[float]) -> str:
    """Mean ± standard error of differences of accuracies in points, or the mean alone for one value."""
    error = f" ± {100 * standard_error(differences):.2f}" if len(differences) > 1 else ""
    return f"{100 * statistics.fmean(differences):+.2f}{error}"
