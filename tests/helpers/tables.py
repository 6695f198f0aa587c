"""Tables of test cases by name."""

from __future__ import annotations

from typing import Any


def each(table: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that make `pytest.mark.parametrize` go through a table by name."""
    return {"argvalues": list(table.values()), "ids": list(table)}
