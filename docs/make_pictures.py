"""The gallery of models: `docs/models.md` from the models' cards, and its pictures from small simulations.

    python docs/make_pictures.py             both; minutes
    python docs/make_pictures.py --text      the page alone

Pictures are drawn of what the program computes: physical models from their own initial states, surrogates after a short
training. The text is what the models' modules say of themselves.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from hyco_engine.hooks.registry import Registry
from hyco_engine.spec.reference import PARAMETER_COLUMNS, builtin_registry, markdown_table, parameter_rows

DOCS = Path(__file__).parent
PAGE, IMAGES = DOCS / "models.md", DOCS / "images" / "models"
MAX_BYTES = 150_000
COMMAND = "python docs/make_pictures.py"

UNIT_SQUARE = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
# kind: (tables of a spec, frames to draw of two-dimensional fields or None for time against space, what is drawn)
PHYSICAL: Mapping[str, tuple[dict[str, Any], Sequence[int] | None, str]] = {
    "advection": (
        {
            "data": {"resolution": {"x": 96, "y": 96}, "bounds": UNIT_SQUARE, "dt": 0.2, "num_frames": 9},
            "physical": {"velocity": "ring-vortex", "speed": 0.5, "length_scale": 0.2},
            "truth": {"mx": 0.0, "my": 0.0},
        },
        (0, 2, 5, 8),
        "rho",
    ),
    "burgers": (
        {
            "data": {"resolution": {"x": 256}, "bounds": {"x": [0.0, 1.0]}, "dt": 0.005, "num_frames": 200},
            "physical": {"length_scale": 0.15},
            "truth": {"nu": 0.003},
        },
        None,
        "u",
    ),
    "equation": (
        {
            "data": {"resolution": {"x": 128}, "bounds": {"x": [0.0, 30.0]}, "dt": 0.02, "num_frames": 200},
            "physical": {"rates": {"u": "-6*u*dx(u) - dispersion*dx(u, 3)"}, "amplitude": 0.6, "length_scale": 0.2},
            "truth": {"dispersion": 1.0},
        },
        None,
        "u",
    ),
    "fisher-kpp": (
        {
            "data": {"resolution": {"x": 96, "y": 96}, "bounds": UNIT_SQUARE, "dt": 0.5, "num_frames": 17},
            "physical": {"length_scale": 0.12, "amplitude": 0.5},
            "truth": {"D": 3e-4, "r": 1.0},
        },
        (4, 8, 12, 16),
        "u",
    ),
    "gray-scott": (
        {
            "data": {
                "resolution": {"x": 96, "y": 96},
                "bounds": {"x": [0.0, 144.0], "y": [0.0, 144.0]},
                "dt": 50.0,
                "num_frames": 81,
            },
            "physical": {"spot_radius": 0.06, "spots": 5},
            "truth": {"Du": 0.16, "Dv": 0.08, "f": 0.035, "k": 0.062},
        },
        (0, 10, 30, 80),
        "v",
    ),
    "heat": (
        {
            "data": {
                "resolution": {"x": 96, "y": 96},
                "bounds": {"x": [-3.0, 3.0], "y": [-3.0, 3.0]},
                "dt": 0.02,
                "num_frames": 6,
            },
            "physical": {"conductivity": "bumps", "length_scale": 0.15},
            "truth": {"A1": 3.0, "x1": 1.0, "y1": 1.0, "A2": 2.5, "x2": -2.0, "y2": -2.0},
        },
        (0, 1, 2, 5),
        "u",
    ),
    "inviscid-burgers": (
        {
            "data": {"resolution": {"x": 256}, "bounds": {"x": [0.0, 1.0]}, "dt": 0.01, "num_frames": 200},
            "physical": {"offset": 1.0, "amplitude": 0.4},
            "truth": {"potential": {"profile": "sin-squared", "offset": -0.15, "scale": 0.3, "waves": 2}},
        },
        None,
        "u",
    ),
    "kuramoto-sivashinsky": (
        {
            "data": {"resolution": {"x": 256}, "bounds": {"x": [0.0, 128.0]}, "dt": 0.5, "num_frames": 240},
            "physical": {},
            "truth": {"alpha": 1.0, "nu": 1.0},
        },
        None,
        "u",
    ),
    "navier-stokes": (
        {
            "data": {"resolution": {"x": 128, "y": 128}, "bounds": UNIT_SQUARE, "dt": 0.1, "num_frames": 13},
            "physical": {"length_scale": 0.3},
            "truth": {"nu": 1e-3},
        },
        (0, 2, 6, 12),
        "vorticity",
    ),
    "smoke": (
        {
            "data": {
                "resolution": {"x": 96, "y": 128},
                "bounds": {"x": [0.0, 1.0], "y": [0.0, 1.33]},
                "dt": 0.2,
                "num_frames": 23,
            },
            "physical": {},
            "truth": {"buoyancy": 0.8, "nu": 0.002, "D": 0.001},
        },
        (0, 8, 14, 22),
        "smoke",
    ),
}
SURROGATES = ("resnet", "unet", "mlp", "corrected", "coordinate-mlp")

HEAD = f"""# Gallery of models

<!-- Generated: {COMMAND} -->

This page shows all models that come with the engine. The cards are the docstrings of the models' modules, and the
program draws the pictures from small simulations. [The spec, key by key](spec.md) lists the options, and
[Models](hooks/models.md) shows how to add a model.

* Physical: {{physical}}
* Surrogates: {{synthetic}}
"""


# --- the page -----------------------------------------------------------------------------------------------------


def page(registry: Registry) -> str:
    """The page as Markdown."""
    names = {role: registry.kinds("hyco_models", role) for role in ("physical", "synthetic")}
    lists = {role: ", ".join(f"[{kind}](#{kind})" for kind in kinds) for role, kinds in names.items()}
    lines = [HEAD.format(**lists).rstrip()]
    for role, title in (("physical", "Physical models"), ("synthetic", "Surrogates")):
        lines += ["", f"## {title}"]
        for kind in names[role]:
            lines += ["", f"### {kind}", "", f"![{described(kind)}](images/models/{kind}.png)", ""]
            lines += card(import_module(f"hyco_engine.builtin.models.{kind.replace('-', '_')}").__doc__ or "")
            if (found := parameter_rows(registry, kind) if role == "physical" else None) is not None:
                lines += ["", *markdown_table(PARAMETER_COLUMNS, found[1])]
            options = f"[Options](spec.md#{role}kind--{kind})"
            example = f" · [example](examples/{kind}.toml)" if (DOCS / "examples" / f"{kind}.toml").is_file() else ""
            lines += ["", options + example]
    return "\n".join(lines) + "\n"


def described(kind: str) -> str:
    """What the picture shows, for those who do not see it."""
    if kind not in PHYSICAL:
        return "A held-out simulation: truth, the surrogate after a short training, and their difference, over time"
    _, frames, what = PHYSICAL[kind]
    return f"{what} over time and space" if frames is None else f"{what} at {len(frames)} times"


def card(text: str) -> Iterator[str]:
    """A module's docstring as Markdown: its sentence, then a table of what has a name at the margin, and paragraphs."""
    title, _, rest = text.strip().partition("\n")
    yield escaped(title)
    named = False
    for paragraph in re.split(r"\n\s*\n", rest.strip("\n")):
        entries = list(_entries(paragraph.splitlines()))
        if not any(name for name, _ in entries):
            yield from ("", escaped(" ".join(line for _, lines in entries for line in lines)))
            named = False
            continue
        if not named:
            yield from ("", "| | |", "| --- | --- |")
            named = True
        for name, lines in entries:
            joined = "<br>".join(f"`{line}`" for line in lines) if name == "Equation" else escaped(" ".join(lines))
            yield f"| {name} | {joined.replace('|', chr(92) + '|')} |"


def _entries(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """`Name      text` with its indented continuation, or a heading `key = "value"` with what is indented below it."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        named = re.match(r"(\w[\w ]*?)\s{2,}(.+)", line) if not line.startswith(" ") else None
        if named:
            found.append((named[1], [named[2].strip()]))
        elif not line.startswith(" "):
            found.append((f"`{line.strip()}`" if "=" in line else "", [] if "=" in line else [line.strip()]))
        else:
            found[-1][1].append(line.strip()) if found else found.append(("", [line.strip()]))
    yield from found


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


# --- the pictures -------------------------------------------------------------------------------------------------


def simulated(kind: str) -> tuple[Any, Any, float]:
    """(trajectory, layout, dt) of one simulation."""
    from hyco_engine import Engine
    from hyco_engine.assembly import Assembler

    tables, _, _ = PHYSICAL[kind]
    data = {"kind": "simulate", "num_simulations": 1, "truth": tables["truth"], **tables["data"]}
    engine = Engine({"data": data, "physical": {"kind": kind, **tables["physical"]}, "run": {"device": "cpu"}})
    source = Assembler(engine.spec, engine.registry).source()
    return source.load(0), source.layout, source.dt


def draw_physical(kind: str) -> None:
    trajectory, layout, dt = simulated(kind)
    _, frames, what = PHYSICAL[kind]
    grid = layout.grid
    if what == "vorticity":
        dx, dy = grid.spacing
        ux, uy = trajectory.dynamic.numpy().swapaxes(0, 1)
        values = gradient(uy, 1, dx) - gradient(ux, 2, dy)
    else:
        values = trajectory.dynamic[:, layout.channels(what).start].numpy()
    cells = tuple(slice(0, n) for n in grid.resolution)  # staggered layouts have more
    values = values[(slice(None), *cells)]
    if frames is None:
        panels = [("", values)]
        save(kind, panels, [0.0, dt * (len(values) - 1), grid.lower[0], grid.upper[0]], ("t", "x"), (8.0, 2.6), what)
    else:
        panels = [(f"t = {frame * dt:g}", values[frame]) for frame in frames]
        extent = [grid.lower[0], grid.upper[0], grid.lower[1], grid.upper[1]]
        save(kind, panels, extent, ("x", "y"), (8.4, 2.4), what)


def gradient(values: Any, axis: int, spacing: float) -> Any:
    """Central differences on a periodic axis."""
    return (np.roll(values, -1, axis) - np.roll(values, 1, axis)) / (2 * spacing)


def draw_surrogate(kind: str) -> None:
    """Train shortly on simulations of Burgers' equation, and roll out from a held-out state."""
    import hyco_engine as hyco

    if kind == "mlp":
        draw_series(kind)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = hyco.run(surrogate_spec(kind, Path(folder)))
        truth, guess, extent = points_of(result) if kind == "coordinate-mlp" else rollout_of(result)
    panels = [("truth", truth), (kind, guess), ("difference", guess - truth)]
    save(kind, panels, extent, ("t", "x"), (8.4, 2.4), "u")


def draw_series(kind: str) -> None:
    """Train shortly on prey and predators, and roll out from a held-out state."""
    import tomllib

    import hyco_engine as hyco
    from hyco_engine.cli.init import templates
    from hyco_engine.report.comparison import over_time
    from hyco_engine.report.drawing import new_figure
    from hyco_engine.report.rollouts import HeldOutRollout
    from hyco_engine.report.shown import Shown, component_names

    with tempfile.TemporaryDirectory() as folder:
        spec = tomllib.loads(templates()["ode"]) | {"paths": {"cache": f"{folder}/cache", "runs": f"{folder}/runs"}}
        found = HeldOutRollout.load(hyco.run(spec).folder)
    guess = {"synthetic": found.predictions["synthetic"]}
    figure = new_figure(8.4, 2.6)
    for place, name in enumerate(component_names(found.layout), start=1):
        over_time(figure.add_subplot(1, 2, place), Shown.of(found.truth, guess, found.layout, found.dt, name))
    write(kind, figure)


def surrogate_spec(kind: str, folder: Path) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "run": {"name": "gallery", "cycles": 1, "device": "cpu"},
        "paths": {"cache": str(folder / "cache"), "runs": str(folder / "runs")},
        "data": {
            "kind": "simulate",
            "physics": {"kind": "burgers", "length_scale": 0.25},
            "truth": {"nu": 0.02},
            "num_simulations": 12,
            "num_frames": 31,
            "resolution": {"x": 64},
            "bounds": {"x": [0.0, 1.0]},
            "dt": 0.02,
            "split": {"train": "0:10", "val": "10:11", "test": "11:12"},
        },
        "synthetic": {"kind": kind},
        "training": {"synthetic": {"epochs_per_cycle": 60}},
    }
    if kind == "corrected":  # a physics without the drag that the data have
        spec["data"] |= {"extra": {"drag": 1.0, "force": 1.0, "waves": 1}}
        spec["physical"] = {"kind": "burgers", "parameters": {"nu": {"learn": False, "init": 0.02}}}
        spec["augmentation"] = {"alpha": 0.0}
    if kind == "coordinate-mlp":
        spec["data"] = sensors(folder)
        spec["synthetic"] |= {"duration": 0.6}
        spec["training"]["synthetic"] |= {"epochs_per_cycle": 400, "lr": 3e-3, "batch_size": 256}
    return spec


def sensors(folder: Path) -> dict[str, Any]:
    """A table of what 2,000 sensors see of one wave that decays while it travels."""
    rng = np.random.default_rng(0)
    t, x = rng.uniform(0.0, 0.6, 2000), rng.uniform(0.0, 1.0, 2000)
    table = np.stack([t, x, wave(t, x)], axis=1)
    np.savetxt(folder / "sensors.csv", table, delimiter=",", header="t,x,u", comments="")
    np.save(folder / "start.npy", wave(0.0, (np.arange(64) + 0.5) / 64))
    return {
        "kind": "points",
        "path": str(folder / "sensors.csv"),
        "split": {"by": "sensor"},
        "heldout": 0.2,
        "resolution": {"x": 64},
        "bounds": {"x": [0.0, 1.0]},
        "boundary": "periodic",
        "dt": 0.02,
        "num_predict_steps": 30,
        "initial": {"u": {"file": str(folder / "start.npy")}},
    }


def wave(t: Any, x: Any) -> Any:
    return np.exp(-2 * t) * np.sin(2 * np.pi * (x - t)) + 0.5 * np.exp(-4 * t) * np.cos(6 * np.pi * x)


def rollout_of(result: Any) -> tuple[Any, Any, list[float]]:
    from hyco_engine.report.rollouts import HeldOutRollout

    found = HeldOutRollout.load(result.folder)
    return found.truth[:, 0], found.predictions["synthetic"][:, 0], [0.0, found.dt * (len(found.truth) - 1), 0.0, 1.0]


def points_of(result: Any) -> tuple[Any, Any, list[float]]:
    import torch

    t, x = np.meshgrid(np.linspace(0.0, 0.6, 61), np.linspace(0.0, 1.0, 64), indexing="ij")
    where = {
        "position": torch.tensor(x.reshape(-1, 1), dtype=torch.float32),
        "time": torch.tensor(t.ravel(), dtype=torch.float32),
    }
    with torch.no_grad():
        guess = result.synthetic(where)["u"].reshape(t.shape).numpy()
    return wave(t, x), guess, [0.0, 0.6, 0.0, 1.0]


def save(
    kind: str,
    panels: Sequence[tuple[str, Any]],
    extent: Sequence[float],
    axes: tuple[str, str],
    size: tuple[float, float],
    what: str,
) -> None:
    """One row of images `[first axis, second axis]`, on one scale of colours."""
    from hyco_engine.report.drawing import new_figure, plain_axes

    figure = new_figure(*size)
    low, high = min(float(v.min()) for _, v in panels), max(float(v.max()) for _, v in panels)
    signed = low < 0 < high and min(-low, high) > 0.2 * max(-low, high)
    if signed:
        low, high = -max(-low, high), max(-low, high)
    for place, (title, values) in enumerate(panels):
        ax = plain_axes(figure.add_subplot(1, len(panels), place + 1), title, grid=False)
        aspect = "equal" if axes == ("x", "y") else "auto"
        colours = "RdBu_r" if signed else "viridis"
        shown = {"extent": extent, "aspect": aspect, "cmap": colours, "vmin": low, "vmax": high}
        image = ax.imshow(values.T, origin="lower", interpolation="none", **shown)
        ax.set_xlabel(axes[0])
        if not place:
            ax.set_ylabel(axes[1])
        else:
            ax.set_yticklabels([])
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.85, pad=0.01)
    bar.set_label(what, fontsize=9)
    bar.ax.tick_params(labelsize=8, color="#888888")
    write(kind, figure)


def write(kind: str, figure: Any) -> None:
    """Write a figure as finely as the largest file allows."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{kind}.png"
    for dpi in (110, 90, 70, 55):
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
        if path.stat().st_size < MAX_BYTES:
            return
    raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    PAGE.write_text(page(builtin_registry()), encoding="utf-8")
    chosen = [argument for argument in sys.argv[1:] if argument != "--text"]
    if "--text" not in sys.argv:
        for kind in chosen or [*PHYSICAL, *SURROGATES]:
            print(kind, flush=True)
            draw_physical(kind) if kind in PHYSICAL else draw_surrogate(kind)
