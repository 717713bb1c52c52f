"""Numbers over seeds, in records and in words: values ± standard deviation, differences ± standard error."""

import statistics
from collections.abc import Iterable
from typing import Any


def over_seeds(values: Iterable[float]) -> dict[str, Any]:
    """`values`, their `mean`, and `std`, the sample standard deviation, None for one seed."""
    values = list(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"values": values, "mean": statistics.fmean(values), "std": std}


def mean_and_std(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation, the mean alone of one value."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def percent(accuracies: list[float]) -> str:
    """Accuracies in [0, 1] as mean ± standard deviation in %."""
    return mean_and_std([100 * accuracy for accuracy in accuracies], 2)


def standard_error(values: list[float]) -> float:
    """Of the mean of two values or more."""
    return statistics.stdev(values) / len(values) ** 0.5


def gain(accuracies: Iterable[float], than: Iterable[float]) -> str:
    """The mean of the differences between networks of one seed, in points, ± its standard error."""
    return points([a - b for a, b in zip(accuracies, than, strict=True)])


def points(differences: list[float]) -> str:
    """Differences of accuracies in points, mean ± standard error, the mean alone of one value."""
    error = f" ± {100 * standard_error(differences):.2f}" if len(differences) > 1 else ""
    return f"{100 * statistics.fmean(differences):+.2f}{error}"
