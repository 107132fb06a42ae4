"""The data on a grid: from a source's trajectories to windows, splits and statistics.

`DataManager` serves trajectory sources. A `SampleSource` has data that is no field on a grid and divides its samples
into splits itself; the engine trains on these samples directly and needs neither a layout nor statistics.
"""
