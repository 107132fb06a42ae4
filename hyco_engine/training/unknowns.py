"""The unknowns of a model, as named parameters and as one flat point."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hyco_engine.interfaces import PhysicalModel
from hyco_engine.physics.transforms import Transform
from hyco_engine.physics.within import physics_within


class Unknowns:
    """The parameters of `model` that require a gradient, in the order of a point `[P]`.

    Points are float64 and lie on the CPU. They hold a physics' parameters as the unconstrained numbers that its
    transforms map into the bounds. `physics` is the model if it is a physical one, else None.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.physics = model if isinstance(model, PhysicalModel) else None
        self._steppers = physics_within(model)
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def __bool__(self) -> bool:
        return bool(self.named)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters in the order of a point's entries."""
        return list(self.named.values())

    @property
    def numbers_of_a_sample(self) -> int:
        """The number of entries of a point on which one sample depends: of values of groups, the own group's alone."""
        index = () if self.physics is None else self.physics.learnables.index
        grouped = {f"learnables.raw.{name}" for name in index}
        return sum(1 if name in grouped else parameter.numel() for name, parameter in self.named.items())

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model computes."""
        return self.parameters[0].dtype

    def point(self) -> Tensor:
        """Return the model's present point `[P]`, as a copy."""
        return nn.utils.parameters_to_vector(self.parameters).detach().double().cpu()

    def move_to(self, point: Tensor) -> None:
        """Give the model the parameters of a point `[P]`."""
        first = self.parameters[0]
        nn.utils.vector_to_parameters(point.to(dtype=first.dtype, device=first.device), self.parameters)

    def at(self, point: Tensor) -> dict[str, Tensor]:
        """Return a point `[P]` as tensors by parameter name; differentiable."""
        parts = torch.split(point, [p.numel() for p in self.named.values()])
        return {name: part.view(p.shape) for (name, p), part in zip(self.named.items(), parts, strict=True)}

    def slower(self, factor: float) -> Tensor:
        """Return the point `[P]` at which each learned parameter of the physics is `factor` times what it is now.

        Zero, towards which they go, stands for the value nearest to it that is within the bounds.
        """
        assert self.physics is not None
        learnables, here = self.physics.learnables, self.at(self.point())
        moved = dict(here)
        for name in learnables.learned:
            transform = learnables.transform(name)
            raw = here[f"learnables.raw.{name}"]
            least = min(max(0.0, transform.lower), transform.upper)
            moved[f"learnables.raw.{name}"] = transform.to_raw(least + factor * (transform.to_value(raw) - least))
        return torch.cat([value.flatten() for value in moved.values()])

    def trust_region(self) -> Tensor:
        """Return the trust region `[P]`: each number's largest move in a step, `Transform.reach` or else infinity."""
        known = {}
        if self.physics is not None:
            learnables = self.physics.learnables
            known = {f"learnables.raw.{name}": learnables.transform(name).reach for name in learnables.learned}
        parts = [
            torch.full((parameter.numel(),), known.get(name, math.inf), dtype=torch.float64)
            for name, parameter in self.named.items()
        ]
        return torch.cat(parts)

    @property
    def internal_steps(self) -> tuple[int, ...]:
        """The numbers of internal steps in a frame, on which the loss depends beside the point."""
        return tuple(int(getattr(physics, "substeps", 1)) for physics in self._steppers.values())

    def step_load(self, point: Tensor | None = None) -> float:
        """Return the largest `PhysicalModel.step_load` of the physics in the model, at `point` or at its own."""
        return max((physics.step_load(raw) for physics, raw in self._raw(point)), default=0.0)

    def settle_steps(self, point: Tensor | None = None) -> bool:
        """Choose other numbers of internal steps where `point`, or the model's own, needs them; true if any changed."""
        return any([physics.settle_steps(raw) for physics, raw in self._raw(point)])

    def _raw(self, point: Tensor | None) -> list[tuple[PhysicalModel, dict[str, Tensor] | None]]:
        """Return each physics in the model with its unconstrained parameters at `point`."""
        if point is None:
            return [(physics, None) for physics in self._steppers.values()]
        named = self.at(point)
        found: list[tuple[PhysicalModel, dict[str, Tensor] | None]] = []
        for name, physics in self._steppers.items():
            prefix = f"{name}.learnables.raw." if name else "learnables.raw."
            raw = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
            found.append((physics, raw))
        return found

    def means(self, point: Tensor | None = None) -> dict[str, float]:
        """Return the mean of each parameter of a physics, at `point` or at the model's own; for others nothing."""
        if self.physics is None:
            return {}
        raw = None
        if point is not None:
            raw = {name.removeprefix("learnables.raw."): value for name, value in self.at(point).items()}
        with torch.no_grad():
            return {name: float(value.mean()) for name, value in self.physics.learnables.values(raw).items()}

    def copies(self) -> dict[str, Tensor]:
        """Return copies of all that the model learns, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.named.items()}

    @contextmanager
    def with_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the model, within the context, the weights of a state dict."""
        now = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(weights)
        try:
            yield
        finally:
            self.model.load_state_dict(now)

    def unmoved(self, before: Mapping[str, Tensor]) -> list[str]:
        """Return the spec's names of learned parameters that equal their copies in `before`."""
        return [
            name.removeprefix("learnables.raw.") for name, now in self.named.items() if torch.equal(before[name], now)
        ]


def draw_starts(model: PhysicalModel, count: int, generator: torch.Generator) -> Tensor:
    """Return unconstrained starts `[count, P]`: the model's own, then others, evenly over each parameter's range.

    The range lies between two bounds (by its logarithm where steps are relative); without two bounds it is a factor of
    up to e^2, or twice the start's size, to both sides. A field moves as a whole.
    """
    columns = []
    for name in model.learnables.learned:
        own = model.learnables.raw[name].detach().double().cpu().flatten()
        # one draw from each of the equal parts of the range, in random order: a Latin hypercube
        parts = torch.randperm(count, generator=generator)
        places = (parts + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        moved = own + _moves(model.learnables.transform(name), own, places)[:, None]
        moved[0] = own
        columns.append(moved)
    return torch.cat(columns, dim=1)


def _moves(transform: Transform, own: Tensor, places: Tensor) -> Tensor:
    centre = own.mean()
    lower, upper = transform.lower, transform.upper
    if not math.isfinite(upper - lower):
        return 4 * places - 2
    if transform.log and lower > 0:
        value = lower * (upper / lower) ** (0.02 + 0.96 * places)
    else:
        value = lower + (upper - lower) * (0.02 + 0.96 * places)
    return transform.to_raw(value) - centre
