"""Reports of noise with numbers that are easy to follow, of two seeds."""

import statistics


def report_of(clean, means, undefined=()):
    """A report whose accuracy is the same at all levels of a kind."""
    kinds = {
        kind: None if kind in undefined else {"accuracy": [clean, *[mean] * 5], "mean": mean, "drop": clean - mean}
        for kind, mean in means.items()
    }
    whole = None if undefined else statistics.fmean(means.values())
    return {"clean": clean, "kinds": kinds, "mean": {"image": 0.5, "layer": None, "all": whole}}


REPORTS = {
    "teacher": [report_of(0.95, {"blur": 0.6, "spike_deletion": 0.0}, ["spike_deletion"])] * 2,
    "student_baseline": [report_of(0.90, {"blur": a, "spike_deletion": 0.4}) for a in (0.50, 0.52)],
    "student": [report_of(0.92, {"blur": a, "spike_deletion": 0.3}) for a in (0.56, 0.60)],
}
