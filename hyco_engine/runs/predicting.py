"""Rollouts from the state in a file, by a run's model or by an exported surrogate."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hyco_engine.data.fields import StateLayout
from hyco_engine.data.npy import read_arrays
from hyco_engine.data.scalars import beyond, with_scalars
from hyco_engine.ensemble import Prediction, members_of
from hyco_engine.errors import DataError
from hyco_engine.hooks.registry import Registry
from hyco_engine.interfaces import Player
from hyco_engine.physics.within import instability
from hyco_engine.rollout import evaluating, rollout_with_bands
from hyco_engine.runs.export import read_exported
from hyco_engine.runs.files import write_atomic
from hyco_engine.runs.loading import LoadedRun, Which
from hyco_engine.runs.weights import Weights

log = logging.getLogger("hyco_engine")


def predict(
    run: Path | str,
    source: Path,
    out: Path,
    steps: int,
    model: Player | None = None,
    registry: Registry | None = None,
    which: Which | None = None,
    parameters: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Roll out a run's model from the state in `source` and write the predictions to `out`.

    `run` is a run folder, or a file that `hyco-engine export --format safetensors` wrote. `model` is by default the
    surrogate, or the physics of a run without one; `which` is by default the weights of the run's end.

    `.npy` holds channels in the order of the layout: `[C_all, *S]` or `[B, C_all, *S]` in, `[steps, C_dyn, *S]` or
    `[B, steps, C_dyn, *S]` out. `.npz` holds one array a field, `[*S]` or `[C, *S]`, by name; that of an ensemble also
    has `<field>_spread`, and `<field>_lower` and `<field>_upper` where its run calibrated bands. `parameters` are
    scalars of the simulation, which the file may then lack.
    """
    if Path(run).is_file():
        if model == "physical" or which is not None:
            asked = "physics" if model == "physical" else f"{which} weights"
            raise DataError(f"{run} holds one surrogate with one set of weights; for the {asked} name the run folder")
        stepper, weights = read_exported(Path(run), registry)
        player: Player = "synthetic"
    else:
        loaded = LoadedRun(run, registry)
        player = model or ("physical" if loaded.spec.synthetic is None else "synthetic")
        stepper, weights = loaded.model_and_weights(player, which or "final")
    if weights.layout is None:
        raise DataError(f"the {player} model of {run} does not step states of fields forward")
    scalars = dict(parameters or {})
    state = _read_state(source, weights.layout, scalars)
    if player == "synthetic":
        for told in beyond(scalars, weights.layout, weights.statistics):
            log.warning("%s", told)
    found = _rolled_out(stepper, state, steps, weights, player, scalars)
    _write(out, found, weights.layout)
    about = {"model": player, "steps": steps, "shape": list(found.mean.shape), "dt": weights.dt, "out": str(out)}
    return about if len(members_of(stepper)) == 1 else {**about, "members": len(members_of(stepper))}


def _rolled_out(
    model: nn.Module, state: NDArray[Any], steps: int, weights: Weights, player: Player, scalars: Mapping[str, float]
) -> Prediction:
    assert weights.layout is not None
    like = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), torch.zeros(()))
    states = torch.as_tensor(np.ascontiguousarray(state)).to(like)
    single = states.ndim == weights.layout.n_axes + 1
    full = with_scalars(states[None] if single else states, weights.layout, scalars)
    if (told := instability(model, full)) is not None:
        log.warning("%s", told)
    with torch.no_grad(), evaluating(model):
        found = rollout_with_bands(model, full, steps)
    if not torch.isfinite(found.mean).all():
        first = int((~torch.isfinite(found.mean)).nonzero()[0][1]) + 1
        raise DataError(f"the {player} model diverges from this state: step {first} of {steps} is not finite")
    return found.each(lambda values: values[0].cpu() if single else values.cpu())


def _read_state(path: Path, layout: StateLayout, scalars: dict[str, float]) -> NDArray[Any]:
    """Return the state with all channels, or without those of the scalars; scalars in the file join `scalars`."""
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"{path} is not a .npy or .npz file")
    array = _read_arrays(path, layout, scalars)
    spatial = layout.spatial
    fewer = layout.bare.n_all
    wanted = " or ".join(str([n, *spatial]) for n in sorted({layout.n_all, fewer}))
    if array.shape == spatial and fewer == 1:
        array = array[None]
    fits = array.ndim > layout.n_axes and array.shape[-layout.n_axes - 1] in (layout.n_all, fewer)
    if not fits or array.shape[array.ndim - layout.n_axes :] != spatial or array.ndim > layout.n_axes + 2:
        shape = list(array.shape)
        raise DataError(f"the state in {path} has the shape {shape}; it must be {wanted}, or a batch of that")
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise DataError(f"the state in {path} holds values that are not finite")
    return array


def _read_arrays(path: Path, layout: StateLayout, scalars: dict[str, float]) -> NDArray[Any]:
    try:
        content = read_arrays(path)
        return content if isinstance(content, np.ndarray) else _stacked(content, layout, path, scalars)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _stacked(
    arrays: Mapping[str, NDArray[Any]], layout: StateLayout, path: Path, scalars: dict[str, float]
) -> NDArray[Any]:
    names = [field.name for field in layout.fields]
    if not {field.name for field in layout.bare.fields} <= set(arrays) <= set(names):
        raise DataError(f"{path} holds {', '.join(arrays) or 'no array'}; the model's fields are {', '.join(names)}")
    axis = -layout.n_axes - 1
    for name in layout.scalars:
        if name in arrays and name not in scalars:
            if arrays[name].size != 1:
                raise DataError(
                    f"{path} holds {name} as {list(arrays[name].shape)}; it is one number of the simulation"
                )
            scalars[name] = float(arrays[name].reshape(()))
    parts = []
    for field in layout.bare.fields:
        array = arrays[field.name]
        # without space, an array has a number for each of a batch
        scalar = not field.components and (array.ndim == layout.n_axes or not layout.n_axes)
        parts.append(np.expand_dims(array, axis) if scalar else array)
    return np.concatenate(parts, axis=axis)


def _write(path: Path, found: Prediction, layout: StateLayout) -> None:
    buffer = io.BytesIO()
    array = found.mean.numpy()
    if path.suffix == ".npz":
        axis = array.ndim - layout.n_axes - 1
        more = {"spread": found.spread, "lower": found.lower, "upper": found.upper}
        arrays = {"": array, **{f"_{name}": part.numpy() for name, part in more.items() if part is not None}}
        fields = {
            f"{field.name}{what}": part.take(range(*_range(layout, field.name)), axis)
            for what, part in arrays.items()
            for field in layout.dynamic
        }
        np.savez(buffer, **fields)  # type: ignore[arg-type]  # the stubs take any keyword for allow_pickle
    elif path.suffix == ".npy":
        np.save(buffer, array, allow_pickle=False)
    else:
        raise DataError(f"cannot write {path}: give a name that ends in .npy or .npz")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path.name}: there is no folder {path.parent}")
    write_atomic(path, buffer.getvalue())


def _range(layout: StateLayout, name: str) -> tuple[int, int]:
    channels = layout.channels(name)
    return channels.start, channels.stop
