"""The roles of the networks of a run."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from snnkd_jax.runs.config import Config

Role = Literal["teacher", "student_baseline", "student"]
NETWORKS = {"teacher": "teacher", "student_baseline": "student without KD", "student": "student with KD"}


def title_of(config: "Config", role: str) -> str:
    """A network of a run in words: teacher, student without KD, or student and training method."""
    if role == "student" and not config.is_plain:
        return f"student, {config.method}"
    return NETWORKS["student_baseline" if role == "student" else role]
