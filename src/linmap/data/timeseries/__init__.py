"""Time series from files and data frames, checked: tables wide or long, times in any form, gaps, splits, windows."""

from linmap.data.timeseries.clock import Clock
from linmap.data.timeseries.files import load_table, load_time_series, read_table
from linmap.data.timeseries.series import NanPolicy, TimeSeries
from linmap.data.timeseries.windows import Split, Windows, literature_split

__all__ = [
    "Clock",
    "NanPolicy",
    "Split",
    "TimeSeries",
    "Windows",
    "literature_split",
    "load_table",
    "load_time_series",
    "read_table",
]
