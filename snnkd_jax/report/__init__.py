"""Reports: one HTML file that shows how a run went and what its network does, or how several runs compare.

Every run ends with its report, and `snnkd report` writes it again. To be read it needs no network, no data and no
script.
"""
