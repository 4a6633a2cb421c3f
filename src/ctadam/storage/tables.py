"""Sorting of rows with the same result on every processor."""

import pandas as pd


def sort_rows(table: pd.DataFrame, keys: list[str], *, ascending: bool | list[bool] = True) -> pd.DataFrame:
    """Return the table sorted by keys that identify a row, with a new index.

    pandas' default sort by one column is not stable: the order of ties depends on the processor's vector instructions.

    Args:
        table: the table.
        keys: columns whose values identify a row; empty cells count as equal and come last.
        ascending: as in `pandas.DataFrame.sort_values`.

    Raises:
        ValueError: if two rows share all keys.
    """
    repeated = table.duplicated(keys)
    if repeated.any():
        shared = ", ".join(f"{key} = {value}" for key, value in table.loc[repeated, keys].iloc[0].items())
        raise ValueError(f"two rows share {shared}")
    return table.sort_values(keys, ascending=ascending, kind="stable", ignore_index=True)
