"""Data on a grid: from a source's trajectories to windows, splits and statistics.

`DataManager` serves trajectory sources. A `SampleSource`, whose data is no field on a grid, yields its samples by
split itself; the engine trains on those directly, with neither layout nor statistics.
"""
