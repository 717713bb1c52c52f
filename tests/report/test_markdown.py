"""Tables in Markdown."""

from snnkd_jax.report.markdown import markdown_table


def test_a_table_by_hand():
    table = markdown_table(("T", "test accuracy, %"), [[4, "91.20"], ["", None], ("a b", 1.5)])
    assert table == "| T | test accuracy, % |\n| --- | --- |\n| 4 | 91.20 |\n| | None |\n| a b | 1.5 |\n"


def test_rows_may_be_iterators_and_there_may_be_none():
    assert markdown_table(iter("ab"), iter(())) == "| a | b |\n| --- | --- |\n"
