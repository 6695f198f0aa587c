"""All rows of the benchmark, in the order of the table."""

from benchmarks import (
    arrays,
    cold,
    datasets,
    gan,
    memory,
    other_networks,
    replicas,
    saving,
    sizes,
    small_calls,
)

THEMES = (arrays, datasets, small_calls, other_networks, gan, cold, saving, replicas, memory, sizes)
ROWS = {row.name: row for theme in THEMES for row in theme.ROWS}
