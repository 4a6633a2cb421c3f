"""Order of rows: the same on every processor."""

import pandas as pd


def sort_rows(table: pd.DataFrame, keys: list[str], *, ascending: bool | list[bool] = True) -> pd.DataFrame:
    """Return the table sorted by keys that identify a row, with a new index.

    pandas' default sort of one column is not stable: where two rows tie, their order depends on the vector instructions that
    NumPy finds on the processor.

    Args:
        table: any table.
        keys: columns that no two rows share all values of; empty cells count as equal and come last.
        ascending: as in `pandas.DataFrame.sort_values`.

    Raises:
        ValueError: two rows share all keys.
    """
    twice = table.duplicated(keys)
    if twice.any():
        shared = ", ".join(f"{key} = {value}" for key, value in table.loc[twice, keys].iloc[0].items())
        raise ValueError(f"two rows share {shared}")
    return table.sort_values(keys, ascending=ascending, kind="stable", ignore_index=True)
