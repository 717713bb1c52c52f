"""Reports: one self-contained HTML file per run, or per comparison of runs.

Every run ends with its report, and `snnkd report` writes it again.
"""
