"""Write the measurements of the examples bar and bar-sensors.

    python docs/examples/measure.py

A copper bar of 40 cm was heated unevenly and cools between two ends that are held at the temperature of the
surroundings. The program writes three files into the working directory: bar.npz holds five experiments at 64 positions
with 2 % noise, bar-sensors.csv holds the first experiment as twelve thermometers read it, each at its own times, and
bar-start.npy holds its first frame. Temperatures are in K above the surroundings. They are exact sums of sines, so the
program needs no simulator. The diffusivity is that of copper, 1.11e-4 m^2/s.
"""

import csv
from pathlib import Path

import numpy as np

LENGTH, KAPPA, END = 0.4, 1.11e-4, 60.0
WAVES = np.arange(1, 7)


def temperature(sizes, x, t):
    """Return the exact temperature at positions x and times t, which have the same shape."""
    decay = np.exp(-KAPPA * (WAVES * np.pi / LENGTH) ** 2 * t[..., None])
    return (sizes * decay * np.sin(WAVES * np.pi * x[..., None] / LENGTH)).sum(-1)


def main(folder=Path()):
    rng = np.random.default_rng(0)
    sizes = 30.0 * rng.normal(size=(5, 6)) / WAVES
    x = (np.arange(64) + 0.5) * LENGTH / 64
    t = np.linspace(0.0, END, 31)
    frames = np.stack([temperature(s, *np.broadcast_arrays(x, t[:, None])) for s in sizes])
    noise = 0.02 * frames.std() * rng.normal(size=frames.shape)
    np.savez(folder / "bar.npz", temperature=frames + noise, x=x, t=t)
    np.save(folder / "bar-start.npy", frames[0, 0])
    with (folder / "bar-sensors.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["t", "x", "u"])
        for place in rng.uniform(0.0, LENGTH, 12):
            for time in np.sort(rng.uniform(0.0, END, 15)):
                seen = temperature(sizes[0], place, np.array(time)) + 0.3 * rng.normal()
                table.writerow([f"{time:.3f}", f"{place:.4f}", f"{seen:.3f}"])


if __name__ == "__main__":
    main()
