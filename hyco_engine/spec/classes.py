"""The tables of a spec, in the order of a spec file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from hyco_engine.data.fields import TIME, unknown_rule
from hyco_engine.data.settings import BoundarySetting, SourceChoice
from hyco_engine.equations.syntax import names, parse
from hyco_engine.errors import SpecError
from hyco_engine.physics.settings import PhysicalChoice
from hyco_engine.ranks.shards import check_shards
from hyco_engine.settings import check_folder_name, option, options
from hyco_engine.spec.choices import NormalizerChoice, StrategyChoice, SyntheticChoice, TrackerChoice
from hyco_engine.training.budget import Budget
from hyco_engine.training.settings import PhysicsTraining, SurrogateTraining

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


def check_device(value: str) -> None:
    """Check that the value looks like a device; whether the device exists is checked when the run starts."""
    if not _DEVICE.fullmatch(value):
        raise ValueError(f"must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps', not {value[:120]!r}")


@options
class RunSpec:
    """`[run]`."""

    name: str = option("run", help="name of the run; its folder is <runs>/<name>-<n>", check=check_folder_name)
    seed: int = option(0, help="seed of all random numbers", ge=0)
    cycles: int = option(3, help="number of cycles; in each cycle, both models generate samples and train", ge=0)
    budget: str = option(
        "auto",
        help='most time that the surrogate trains, such as "90 s", "5 min" or "2 h", or its epochs in the whole run, '
        'such as "300 epochs", if training.synthetic.epochs_per_cycle is "auto". The engine times one step before the '
        'first cycle and writes the number of epochs into the resolved spec. "auto": the work that two usual processor '
        "cores do in about three minutes, the same on every machine",
        check=Budget.parse,
    )
    device: str = option(
        "auto",
        help='"auto" takes the first GPU, or else the CPU; others: "cpu", "cuda", "cuda:1", ...',
        check=check_device,
    )
    precision: Literal["auto", "float32", "float64"] = option(
        "auto",
        help="precision of data, models and losses; auto takes float32, but float64 where float32 keeps fewer than 4 "
        "digits of how a field varies",
    )
    threads: int | Literal["auto"] = option(
        "auto",
        help="number of processor threads to compute with; auto: one for small samples, and one more for each 32 768 "
        "cells in a batch of at most 16 samples, up to what torch would take (OMP_NUM_THREADS, or else all cores). "
        "Another number changes the last digits, so a resumed run keeps its own",
        ge=1,
    )
    shards: int | Literal["auto"] = option(
        "auto",
        help="number of parts, a power of two, into which the samples of a step are divided among processes: any "
        "number of processes that divides it gives the same bits; auto: 1 for one process, and 8 for several, or one a "
        "process if they are more",
        check=check_shards,
    )
    reduction: Literal["exact", "fast"] = option(
        "exact",
        help="how several processes add what they found; exact: shard by shard, with the same bits for any number of "
        "processes; fast: one part a process, equal to rounding, with less traffic and larger batches",
    )
    checkpoint_minutes: float = option(
        10.0,
        help="the run writes a checkpoint at the end of each phase, and within a phase after so many minutes",
        unit="min",
        ge=0.0,
        inf=True,
    )

    def __attrs_post_init__(self) -> None:
        if self.reduction == "fast" and self.shards != "auto":
            raise SpecError(
                'with reduction = "fast", each process has one part, however many there are: leave shards out',
                key="shards",
            )


@options
class PathsSpec:
    """`[paths]`. Input paths are relative to the spec's file, outputs to the working directory."""

    data: Path = option(Path("."), help="folder that relative data paths start from")
    cache: Path = option(Path("cache"), help="folder of the caches of tensors and generated samples", output=True)
    runs: Path = option(Path("runs"), help="folder of the run folders, which hold results and logs", output=True)


@options
class TermSetting:
    """`[loss.terms.<field>]`."""

    scale: float | Literal["data"] | None = option(
        None,
        help='size of an error of the field that counts as 1: a number, or "data" for the standard deviation of the '
        'field in the train split; none: as the model declares, else "data" for a field and 1 for a head',
        gt=0.0,
    )
    weight: float = option(1.0, help="priority of the term among all terms", ge=0.0)


@options
class LossTable:
    """`[loss.physical]`, `[loss.synthetic]`: the loss of one model. Keys that are left out come from `[loss]`."""

    normalizer: NormalizerChoice | None = option(None, help="normalizer: it balances the loss terms")
    terms: Mapping[str, TermSetting] | None = option(None, help="settings of each loss term, such as a dynamic field")


@options
class LossSpec:
    """`[loss]`."""

    normalizer: NormalizerChoice = option(
        attrs.Factory(lambda: NormalizerChoice(kind="manual")), help="normalizer: it balances the loss terms"
    )
    terms: Mapping[str, TermSetting] = option(
        attrs.Factory(dict), help="settings of each loss term, such as a dynamic field"
    )
    physical: LossTable = option(attrs.Factory(LossTable), help="settings that differ for the physical model")
    synthetic: LossTable = option(attrs.Factory(LossTable), help="settings that differ for the surrogate")


@options
class TrainingSpec:
    """`[training]`."""

    synthetic: SurrogateTraining = option(
        attrs.Factory(lambda: SurrogateTraining(schedule="cosine")), help="training of the surrogate"
    )
    physical: PhysicsTraining = option(
        attrs.Factory(lambda: PhysicsTraining(optimizer="auto")),
        help="training of the physical model",
    )


@options
class Spec:
    """A whole spec. If `[physical]` or `[synthetic]` is left out, the other model trains alone."""

    run: RunSpec = option(attrs.Factory(RunSpec), help="name, seed, cycles, device")
    paths: PathsSpec = option(attrs.Factory(PathsSpec), help="folders of the data and of the results")
    data: SourceChoice = option(help="the data source")
    physical: PhysicalChoice | None = option(None, help="the physical model")
    synthetic: SyntheticChoice | None = option(None, help="the surrogate")
    augmentation: StrategyChoice = option(
        attrs.Factory(lambda: StrategyChoice(kind="trust")), help="samples that the models generate for each other"
    )
    loss: LossSpec = option(attrs.Factory(LossSpec), help="loss terms and their balance")
    training: TrainingSpec = option(attrs.Factory(TrainingSpec), help="epochs, batches, optimizers")
    trackers: Mapping[str, TrackerChoice] = option(
        attrs.Factory(dict), help="trackers that receive the events of the run"
    )

    def __attrs_post_init__(self) -> None:
        for player in ("physical", "synthetic"):
            stages, full = getattr(self.training, player).curriculum, self.data.num_predict_steps
            if stages and stages != "auto" and stages[-1][0] >= full:
                raise SpecError(
                    f"the last stage trains {stages[-1][0]} steps, but it must train fewer than "
                    f"data.num_predict_steps = {full}, which follows it: set fewer steps, or a longer horizon",
                    key=f"training.{player}.curriculum",
                )
        if self.physical is not None:
            true = getattr(self.data.options, "physics", None)
            known = {*self.physical.parameters, *(true.parameters if isinstance(true, PhysicalChoice) else ())}
            for key, text in self.formulas:
                _check_formula(text, known, key)

    @property
    def formulas(self) -> tuple[tuple[str, str], ...]:
        """The formulas among the boundary conditions of the data, each with its key."""
        return tuple(_formulas(self.data.options, "data"))


def _formulas(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the formulas in boundary conditions among the options of a source, each with its key."""
    if isinstance(value, BoundarySetting):
        yield from ((f"{key}{end}", text) for end, text in value.formulas.items())
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _formulas(getattr(value, field.name), f"{key}.{field.name}")
    elif isinstance(value, Mapping):
        for name, own in value.items():
            yield from _formulas(own, f"{key}.{name}")


def _check_formula(text: str, parameters: Collection[str], key: str) -> None:
    """Raise SpecError for a text that is no boundary condition and names nothing that a formula at a side may."""
    try:
        named = {name.name for name in names(parse(text, key))}
    except SpecError as error:
        raise SpecError(
            f"{unknown_rule(text)}, or a formula of parameters; {error.problems[0].message}", key=key
        ) from None
    if not any(name in parameters or name in (*"xyz", TIME) or name.startswith("constants.") for name in named):
        raise SpecError(
            f"{unknown_rule(text)}, or a formula of parameters, which need start values in physical.parameters", key=key
        )
