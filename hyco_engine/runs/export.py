"""A run's results for use elsewhere: the surrogate as one file, and what the physics identified as readable TOML."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
import torch
from torch import Tensor, nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.statistics import Statistics
from hyco_engine.ensemble import calibrated, members_of
from hyco_engine.errors import DataError, PluginError, RunError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import Predictor, SurrogateContext
from hyco_engine.physics.settings import ArrayFile, PhysicalChoice
from hyco_engine.physics.within import physics_within
from hyco_engine.randomness import derive_generator
from hyco_engine.rollout import rollout
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.folder import weights_bytes
from hyco_engine.runs.loading import LoadedRun, Which
from hyco_engine.runs.metrics import find_summary
from hyco_engine.runs.weights import Weights, description
from hyco_engine.spec.choices import SyntheticChoice
from hyco_engine.spec.dumping import plain
from hyco_engine.spec.structuring import Structurer
from hyco_engine.training.informed import build_surrogate

Format = Literal["torch-export", "safetensors", "toml"]
_SUFFIXES: Mapping[str, Format] = {".pt2": "torch-export", ".safetensors": "safetensors", ".toml": "toml"}
TOLERANCE = 1e-6
"""Allowed difference between the written and the original surrogate, relative to the largest value."""


class Rollout(nn.Module):
    """The exported program: `forward(state [B, C_all, *S]) -> [B, steps, C_dyn, *S]`, in the data's units."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        super().__init__()
        self.model = model
        self.steps = steps

    def forward(self, state: Tensor) -> Tensor:
        return rollout(self.model, state, self.steps)


def export(
    run_dir: Path | str,
    out: Path,
    form: Format | None = None,
    *,
    steps: int = 1,
    which: Which = "final",
    registry: Registry | None = None,
) -> dict[str, Any]:
    """Write a run's surrogate to `out`, and beside it a `.toml` file that describes it and the identified parameters.

    Without `form` the ending of the name decides, `.safetensors` or `.toml`, else "torch-export".

    "torch-export": a program with the normalisation inside, for any batch size, that `torch.export.load` runs without
    this package; each call rolls out `steps` steps. "safetensors": the weights, with metadata from which
    `load_surrogate` builds the surrogate again. "toml": the description alone, to `out`.

    The written file is read back and compared with the original. Raise RunError where they differ, and where the model
    cannot be exported; DataError where the run lacks the model.
    """
    run = LoadedRun(run_dir, registry, device="cpu")
    form = form or _SUFFIXES.get(out.suffix, "torch-export")
    if (meant := _SUFFIXES.get(out.suffix, form)) != form:
        suffix = next(suffix for suffix, other in _SUFFIXES.items() if other == form)
        raise DataError(
            f"the name {out} is for the format {meant}, and the format is {form}: call the file {out.stem}{suffix}"
        )
    beside = out.with_suffix(".toml")
    if not out.parent.is_dir():
        raise DataError(f"cannot write {out.name}: there is no folder {out.parent}")
    about: dict[str, Any] = {}
    difference = None
    if form != "toml":
        model, weights = _surrogate(run, which)
        about["surrogate"] = {
            "file": out.name,
            "format": form,
            "weights": which,
            **_described(weights, steps, form, len(members_of(model))),
        }
        content, difference = (
            _program(model, weights, steps) if form == "torch-export" else _tensors(model, weights, run, out)
        )
        write_atomic(out, content)
    about |= _identified(run)
    if not about:
        raise DataError(f"the run {run.folder} has no physics whose parameters could be written")
    write_atomic(beside, f"{_HEAD.format(name=run.spec.run.name)}\n{tomli_w.dumps(about)}")
    files = [str(beside)] if form == "toml" else [str(out), str(beside)]
    return {"run": str(run_dir), "format": form, "files": files, "difference": difference}


_HEAD = """# Results of the hyco-engine run "{name}".
# [surrogate]: what the exported file takes and gives. A state is [batch, channels, *grid]; channels are those of the
# dynamic fields, then of the static ones, in listed order. A field sampled "uniform" holds one number of a simulation
# at all points, one sampled "index" the place of its group in "groups", or -1 where the state holds the group's values
# itself. [parameters]: what the physics identified."""


def read_exported(path: Path, registry: Registry | None = None, device: str | None = None) -> tuple[nn.Module, Weights]:
    """Return the surrogate of a file that `export` wrote as "safetensors", in eval mode, and the file's description.

    Nothing in the file is executed. Raise DataError where it is damaged or has another format; an exported program is
    refused, since its reader, `torch.export.load`, unpickles its content.
    """
    if path.suffix != ".safetensors":
        raise DataError(
            f"{path} is neither a run folder nor a surrogate exported as .safetensors; the engine reads no exported "
            f"program (.pt2), since reading can execute its content: run one that you trust with torch, as "
            f"docs/results.md shows"
        )
    registry = registry or Registry.installed()
    weights = Weights.of_file(path)
    if weights.options is None or weights.layout is None:
        raise DataError(
            f"{path} holds weights alone; export the run's surrogate, or name the run folder: hyco-engine export --help"
        )
    model = _built(weights, registry).to(device or "cpu")
    try:
        model.load_state_dict(weights.state)
    except RuntimeError as error:
        raise PluginError(f"the weights in {path} do not fit the installed model {weights.kind!r}: {error}") from error
    return calibrated(model, weights.bands).eval(), weights


def _built(weights: Weights, registry: Registry) -> nn.Module:
    table = {**(weights.options or {}), "kind": weights.kind}
    structurer = Structurer(registry)
    choice: SyntheticChoice = structurer.structure(table, SyntheticChoice)
    context = SurrogateContext(
        seed=0,
        registry=registry,
        dtype=weights.dtype,
        layout=weights.layout,
        dt=weights.dt,
        statistics=weights.statistics,
        physical=None if weights.physical is None else structurer.structure(weights.physical, PhysicalChoice),
    )
    return build_surrogate(
        lambda own: registry.build(choice.hook, choice.kind, choice.options, own), context, choice.members
    )


def _surrogate(run: LoadedRun, which: Which) -> tuple[nn.Module, Weights]:
    if run.spec.synthetic is None:
        raise DataError(f"the run {run.folder} has no surrogate; --format toml writes the parameters of its physics")
    model, weights = run.model_and_weights("synthetic", which)
    if weights.layout is None or isinstance(model, Predictor):
        raise DataError(
            f"the surrogate of {run.folder} does not step states of fields forward, so it cannot be exported"
        )
    return model, weights


def _program(model: nn.Module, weights: Weights, steps: int) -> tuple[bytes, float]:
    """Return the exported program as a file's content, and its largest difference from the model."""
    # callers of the program may still differentiate by the state
    whole = Rollout(model, steps).eval().requires_grad_(False)
    states = _states(weights)
    buffer = io.BytesIO()
    try:
        for physics in physics_within(whole).values():
            physics.prepare_export(states)
        with warnings.catch_warnings(), torch.no_grad():
            # torch itself causes these warnings
            warnings.simplefilter("ignore")
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(whole, (states[:2],), dynamic_shapes=({0: batch},), strict=False)
            torch.export.save(program, buffer)
            buffer.seek(0)
            read = torch.export.load(buffer).module()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"torch.export cannot export the surrogate {weights.kind!r}: {reason}; --format safetensors can"
        ) from error
    return buffer.getvalue(), _difference(read, whole, states)


def _tensors(model: nn.Module, weights: Weights, run: LoadedRun, out: Path) -> tuple[bytes, float]:
    """Return the weights with metadata as a file's content, and their largest difference from the model."""
    assert run.spec.synthetic is not None
    options = {key: value for key, value in plain(run.spec.synthetic).items() if key != "kind"}
    about = description(weights.kind, weights.form, weights.bands)
    metadata = {**about, "options": json.dumps(options), **_physical_table(model, run)}
    content = weights_bytes(model.state_dict(), metadata)
    read = Weights(out, content)
    again = _built(read, run.assembler.registry)
    again.load_state_dict(read.state)
    return content, _difference(again.eval(), model, _states(weights))


def _physical_table(model: nn.Module, run: LoadedRun) -> dict[str, str]:
    """The metadata `physical` of a surrogate that contains the physics: the spec's table, with numbers for files."""
    choice, inside = run.spec.physical, list(physics_within(model).values())
    if choice is None or not inside:
        return {}
    table = plain(choice)
    for name, setting in choice.parameters.items():
        if isinstance(setting.init, ArrayFile):
            # the weights hold what it became; where it started only has to be within its bounds
            table["parameters"][name]["init"] = float(inside[0].learnables.values()[name].mean())
    return {"physical": json.dumps(table)}


def _difference(written: nn.Module, original: nn.Module, states: Tensor) -> float:
    """Return the largest difference over several batch sizes. Raise RunError where it exceeds the tolerance."""
    worst = 0.0
    with torch.no_grad():
        for batch in (states[:1], states[:3], states):
            wanted, got = original(batch), written(batch)
            if got.shape != wanted.shape or not bool(wanted.isfinite().all()):
                raise RunError(
                    f"the exported surrogate gives {list(got.shape)} where the original gives {list(wanted.shape)}, or "
                    f"values that are not finite; nothing was written"
                )
            worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)))
    if not worst <= TOLERANCE:
        raise RunError(f"the exported surrogate differs from the original by {worst:.2g}; nothing was written")
    return worst


def _states(weights: Weights) -> Tensor:
    """Draw five states with the mean and spread of the training data, in the precision of the weights."""
    layout, statistics = weights.layout, weights.statistics
    assert layout is not None
    statistics = statistics or Statistics(
        mean=torch.zeros(layout.n_all), std=torch.ones(layout.n_all), change_std=torch.ones(layout.n_dynamic)
    )
    shape = (-1, *(1 for _ in layout.spatial))
    noise = torch.randn(5, layout.n_all, *layout.spatial, generator=derive_generator(0, "export"))
    return (statistics.mean.reshape(shape) + statistics.std.reshape(shape) * noise).to(weights.dtype)


def _described(weights: Weights, steps: int, form: Format, members: int) -> dict[str, Any]:
    layout = weights.layout
    assert layout is not None
    about: dict[str, Any] = {"kind": weights.kind, "dt": weights.dt}
    if members > 1:
        about["members"] = members
    if form == "torch-export":
        about["steps"] = steps
        about["input"] = f"float tensor [batch, {_shape(layout.n_all, layout)}]"
        about["output"] = f"float tensor [batch, {steps}, {_shape(layout.n_dynamic, layout)}]"
    fields = [
        {
            "name": field.name,
            "role": "dynamic" if field in layout.dynamic else "static",
            "components": list(field.components),
            "sampling": field.sampling,
            "unit": field.unit,
            "boundary": field.boundary.to_data(),
            **({"groups": list(field.groups)} if field.groups else {}),
            **({"by": field.by} if field.by else {}),
        }
        for field in layout.fields
    ]
    grid = layout.grid
    sides = zip(grid.axes, grid.resolution, grid.lower, grid.upper, strict=True)
    axes = {axis: {"cells": n, "lower": lower, "upper": upper} for axis, n, lower, upper in sides}
    return {**about, "grid": axes, "fields": fields}


def _shape(channels: int, layout: StateLayout) -> str:
    return ", ".join(map(str, (channels, *layout.spatial)))


def _identified(run: LoadedRun) -> dict[str, Any]:
    """Return `physics` and `parameters` of the description; unknown values are left out."""
    parameters = (find_summary(run.folder) or {}).get("parameters") or {}
    if run.spec.physical is None or not parameters:
        return {}
    names = {"final": "value", "standard_error": "standard_error", "unit": "unit", "initial": "start", "truth": "truth"}
    tables: dict[str, Any] = {}
    for name, entry in parameters.items():
        table = {new: entry[old] for old, new in names.items() if entry.get(old) is not None}
        tables[name] = {**table, "learned": bool(entry.get("moved"))}
        if "own" in entry:
            own = [
                {key: value for key, value in one.items() if value is not None and key != "budget"}
                for one in entry["own"]
            ]
            tables[name] |= {"by": entry["by"], "own": own}
    return {"physics": {"kind": run.spec.physical.kind}, "parameters": tables}
