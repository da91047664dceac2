"""The page of supported models says what the adapter runs."""

from tests.model_table import PAGE, with_table


def test_page_of_models_is_the_adapters_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page
