"""The layout of SQuAD, v1.1 and v2: articles with paragraphs with questions, read as one row for each question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from luthier.data.reading import BadRow, excerpt


def holds_articles(values: Sequence[Any]) -> bool:
    """Whether the elements of a list are articles of SQuAD: objects with `paragraphs`."""
    first = next((value for value in values if isinstance(value, dict)), {})
    return isinstance(first.get("paragraphs"), list)


def questions_of(articles: Sequence[Any]) -> Iterator[Any]:
    """Yield one row for each question, or a BadRow without number where a piece is broken.

    Args:
        articles: `[{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers", "is_impossible"}]}]}]`.

    Yields:
        Objects with `title` (where there is one), `context` and what the question has: `id`, `question`, `answers`, ...
    """
    for article in articles:
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            yield BadRow("", 0, "an article without a list of paragraphs", excerpt(article))
            continue
        about = {"title": article["title"]} if "title" in article else {}
        for paragraph in paragraphs:
            yield from _questions_about(paragraph, about)


def _questions_about(paragraph: Any, about: dict[str, Any]) -> Iterator[Any]:
    questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
    if not isinstance(questions, list) or "context" not in paragraph:
        yield BadRow("", 0, "a paragraph without a context and a list of questions (context, qas)", excerpt(paragraph))
        return
    for question in questions:
        yield {**about, "context": paragraph["context"], **question} if isinstance(question, dict) else question
