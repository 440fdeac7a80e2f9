"""What a run's steps are fed with."""

from __future__ import annotations

from typing import Iterator

import pytest

from mindvit.engine.steps import Ahead
from mindvit.errors import UserError


def noted(made: list[int], last: int) -> Iterator[int]:
    """1, 2, ... up to `last`, then an image that can't be decoded."""
    for number in range(1, last + 1):
        made.append(number)
        yield number
    raise UserError("a.jpg can't be decoded")


def test_the_next_item_is_made_when_it_is_said() -> None:
    made: list[int] = []
    items = Ahead(noted(made, 3))
    assert (next(items), made) == (1, [1])
    items.prepare()
    items.prepare()
    assert made == [1, 2]
    assert (next(items), made) == (2, [1, 2])


def test_an_error_comes_in_its_turn() -> None:
    items = Ahead(noted([], 1))
    assert next(items) == 1
    items.prepare()
    with pytest.raises(UserError, match="a.jpg"):
        next(items)


def test_it_ends_where_the_items_end() -> None:
    items = Ahead(iter([1]))
    assert next(items) == 1
    items.prepare()
    assert list(items) == []
