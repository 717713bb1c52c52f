"""MkDocs hooks: publish the committed result records, so that links to them work.

On disk the records are in `experiments/results/`; the site has them in `records/`.
"""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[1] / "experiments" / "results"


def on_files(files: Files, config: Any) -> Files:
    """Adds every record to the site."""
    for path in sorted(RESULTS.rglob("*.json")):
        target = f"records/{path.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Points links at the published records; such pages are at the root of the site."""
    return markdown.replace("](../experiments/results/", "](records/")
