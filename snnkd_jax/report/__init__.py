"""Reports: one HTML file that shows how a run went and what its network does, or how several runs compare.

    python -m snnkd_jax.report RUN                             # writes RUN/report.html
    python -m snnkd_jax.report RUN RUN ... --out FILE.html     # seeds of a recipe, or recipes side by side

Every run ends with its report. To be read it needs no network, no data and no script.
"""
