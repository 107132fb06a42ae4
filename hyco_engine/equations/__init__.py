"""Equations as text: parsed, understood, and evaluated on grids."""
