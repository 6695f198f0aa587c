"""Tables of test cases by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest


def each(table: dict[str, Any], default: Collection[str] | None = None) -> dict[str, Any]:
    """Returns the arguments that make `pytest.mark.parametrize` go through a table by name.

    Args:
        table: the cases.
        default: the names of those that the default tier has; the others are exhaustive. All, if
            it is not given.
    """
    if default is None:
        return {"argvalues": list(table.values()), "ids": list(table)}
    assert set(default) <= set(table)
    exhaustive = {name: pytest.mark.exhaustive for name in table if name not in default}
    return {
        "argvalues": [
            pytest.param(
                *(case if type(case) is tuple else (case,)), id=name, marks=exhaustive.get(name, ())
            )
            for name, case in table.items()
        ]
    }


def without(table: Collection[str], *names: str) -> list[str]:
    """Returns the names in a table but `names`."""
    assert set(names) <= set(table)
    return [name for name in table if name not in names]


def names_of(table: Collection[str], default: Collection[str] | None) -> list[Any]:
    """Returns the names in a table; those not in `default`, if it is given, are exhaustive."""
    return each({name: name for name in table}, default)["argvalues"]
