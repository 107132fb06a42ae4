"""Rollouts of a captured physics with their derivatives, for batched starts.

torch.func on every operation costs ten times the operation. So jvp (for the derivatives) and vmap (for tangents and
starts) transform the step's own graph once, and the result is captured as a graph again. It is compiled where the
model's own step is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from hyco_engine.data.scalars import number
from hyco_engine.physics.capture import pad, trace
from hyco_engine.physics.graphs import Bind, Run, binding, split_binding, writes
from hyco_engine.physics.model import DeclaredModel
from hyco_engine.physics.parameters import Learnables
from hyco_engine.training.jacobian import push_forward, push_forward_all

MAX_GRAPHS = 8
LEAST_BLOCK = 32
BLOCK_VALUES = 2**16
"""Derivatives by start states are pushed in blocks of a power of two, so that few graphs serve any number of them.

A block has about so many values of states, since the calls of smaller ones would cost more than their arithmetic.
"""


class TangentRollout:
    """Rolls `model` out for parameters that need not be its own.

    Raises `NotCaptured` where the model runs as written, since only torch.func can differentiate that. With `compiles`,
    the graph is compiled where the step is.
    """

    def __init__(self, model: DeclaredModel, *, compiles: bool = True) -> None:
        self._model = model
        self._compiles = compiles
        self._graphs: dict[Any, Bind] = {}
        self._moves = 1
        self._frugal = False

    @classmethod
    def of(cls, model: nn.Module, *, compiles: bool = True) -> TangentRollout | None:
        """Return the rollouts of a declared physics; None for any other model, which has no graph of its step."""
        return cls(model, compiles=compiles) if isinstance(model, DeclaredModel) else None

    def __call__(
        self, state: Tensor, steps: int, points: Tensor, tangents: bool, basis: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Roll out from `state [B, C_all, *S]` with raw parameters `points [S, P]`.

        Returns predictions `[S, B, steps, C_dyn, *S]`, and with `tangents` their derivatives
        `[S, Q, B, steps, C_dyn, *S]` by the Q numbers on which one sample depends: of a parameter that has a value for
        each group, a sample depends on that of its own group alone. `spread` gives derivatives by all P numbers.
        With a `basis [D, C_dyn, *S]` of changes of a start, derivatives along those of each rollout's own start follow:
        `[S, Q + D, B, steps, C_dyn, *S]`.
        """
        values, derivatives = self._values(points)
        if not tangents:
            return self._rolled(state, steps, values, None, None)
        own, starts = self._own_columns.to(points.device), len(points)
        numbers = int(own.max()) + 1
        if numbers < len(own):
            derivatives = tuple(d.new_zeros(starts, numbers, *d.shape[2:]).index_add_(1, own, d) for d in derivatives)
        moves = state.new_zeros(numbers, *state.shape)
        count = block = numbers
        if basis is not None:
            count = numbers + len(basis)
            block = _power_of_two(min(count, max(LEAST_BLOCK, BLOCK_VALUES // state.numel())))
            filled = -(-count // block) * block
            derivatives = tuple(_with_more(derivative, filled) for derivative in derivatives)
            more = state.new_zeros(filled - numbers, *state.shape)
            more[: len(basis), :, : basis.shape[1]] = basis[:, None]
            moves = torch.cat([moves, more])
        predictions, found = self._rolled(state, steps, values, derivatives, moves, block)
        assert found is not None
        return predictions, found[:, :count]

    @contextmanager
    def frugal(self) -> Iterator[None]:
        """Within the context, pad a batch to one of up to twice its size of which a graph is known already.

        That is for a few evaluations, which take less time than another graph.
        """
        self._frugal = True
        try:
            yield
        finally:
            self._frugal = False

    def along(self, state: Tensor, steps: int, points: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Roll out from `state [B, C_all, *S]`, with derivatives along the changes `moves [D, B, C_all, *S]` of it.

        Returns predictions `[S, B, steps, C_dyn, *S]` and derivatives `[S, D, B, steps, C_dyn, *S]`.
        """
        values, _ = self._values(points)
        # a graph is captured for one number of changes, so zeros stand for those that a later call lacks
        count = len(moves)
        self._moves = max(self._moves, count)
        moves = torch.cat([moves, moves.new_zeros(self._moves - count, *state.shape)])
        still = tuple(value.new_zeros(len(points), len(moves), *value.shape[1:]) for value in values)
        predictions, derivatives = self._rolled(state, steps, values, still, moves, len(moves))
        assert derivatives is not None
        return predictions, derivatives[:, :count]

    def _rolled(
        self,
        state: Tensor,
        steps: int,
        values: tuple[Tensor, ...],
        derivatives: tuple[Tensor, ...] | None,
        moves: Tensor | None,
        block: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """Roll out with parameters `[S, ...]`, their tangents `[S, D, ...]`, and those of the start `[D, B, ...]`.

        Tangents are pushed `block` at a time.
        """
        model, starts, size = self._model, len(values[0]), state.shape[0]
        found_graph = model.graph_for(state)
        if found_graph is None or writes(found_graph[0]):
            raise NotCaptured("the step runs as written, not as a graph")
        step, batch = found_graph
        padded = pad(state, self._known_batch(state, batch, starts, block) if self._frugal else batch)
        bind = self._graph(step, padded, [v[0] for v in values], starts, block)
        if derivatives is None:
            runs = [bind(*values)]
        else:
            runs = [
                bind(*values, *own) for own in zip(*(torch.split(d, block, dim=1) for d in derivatives), strict=True)
            ]
        static = padded[:, model.layout.n_dynamic :].expand(starts, *padded[:, model.layout.n_dynamic :].shape)
        now = padded.expand(starts, *padded.shape).contiguous()
        flow = None
        if moves is not None:
            flow = now.new_zeros(starts, len(moves), *padded.shape)
            flow[:, :, :size] = moves
        found, derived = [], []
        for index in range(steps * model.substeps):
            if flow is None:
                new = runs[0](now)
            else:
                pushed = [run(now, own) for run, own in zip(runs, torch.split(flow, block, dim=1), strict=True)]
                new, change = pushed[0][0], torch.cat([own for _, own in pushed], dim=1)
                flow = change if not static.shape[2] else _with_zeros(change, flow)
                if (index + 1) % model.substeps == 0:
                    derived.append(change[:, :, :size])
            static = model.later(static, 1 / model.substeps)
            now = new if not static.shape[2] else torch.cat([new, static], dim=2)
            if (index + 1) % model.substeps == 0:
                found.append(new[:, :size])
        predictions = torch.stack(found, dim=2)
        return predictions, torch.stack(derived, dim=3) if derived else None

    @cached_property
    def _own_columns(self) -> Tensor:
        """The place `[P]`, among the Q numbers on which a sample depends, of each of all P numbers."""
        learnables = self._model.learnables
        found: list[int] = []
        for name, place in _places(learnables).items():
            count = learnables.raw[name].numel()
            found += [place] * count if name in learnables.index else range(place, place + count)
        return torch.tensor(found)

    def spread(self, jacobian: Tensor, state: Tensor) -> Tensor:
        """Return derivatives by all P numbers `[S, B, N, P + D]`, for those by each sample's own `[S, B, N, Q + D]`."""
        learnables, layout, parts = self._model.learnables, self._model.layout, []
        places = _places(learnables)
        for name in learnables.learned:
            numel = learnables.raw[name].numel()
            if name not in learnables.index:
                parts.append(jacobian[..., places[name] : places[name] + numel])
                continue
            group = number(state, layout, learnables.index[name]).round().long()
            chosen = group[:, None] == torch.arange(numel, device=group.device)
            parts.append(jacobian[..., places[name], None] * chosen[:, None].to(jacobian))
        numbers = int(self._own_columns.max()) + 1
        return torch.cat([*parts, jacobian[..., numbers:]], dim=-1)

    def _values(self, points: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return all parameters of each start, `[S, ...]`, and their derivatives by the raw ones, `[S, P, ...]`."""
        learnables = self._model.learnables
        shapes = {name: learnables.raw[name].shape for name in learnables.learned}

        def values(point: Tensor) -> tuple[Tensor, ...]:
            parts = torch.split(point, [shape.numel() for shape in shapes.values()])
            raw = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
            # a parameter that is not learned is equal in all starts, but vmap needs one for each start
            return tuple(value + 0 * point.sum() for value in learnables.values(raw).values())

        found = torch.func.vmap(values)(points)
        derivatives = torch.func.vmap(push_forward_all(values))(points)
        return found, tuple(jacobian.movedim(-1, 1) for jacobian in derivatives)

    def _known_batch(self, state: Tensor, batch: int, starts: int, count: int) -> int:
        """Return the smallest batch from `batch` to twice as much for which there is a graph, or else `batch`."""
        known = [
            shape[0]
            for shape, *others in self._graphs
            if shape[1:] == tuple(state.shape[1:]) and others == [state.dtype, starts, count, self._model.substeps]
        ]
        return min((size for size in known if batch <= size <= 2 * batch), default=batch)

    def _graph(self, step: Run, state: Tensor, values: Sequence[Tensor], starts: int, count: int) -> Bind:
        """Return a function of the parameters, and of their tangents unless `count` is 0, that returns the step.

        It is a step of states `[S, ...]` and of their tangents `[S, count, ...]`. What depends on parameters alone,
        such as the coefficients of an exponential integrator, is computed by that function, once for all steps.
        """
        key = (tuple(state.shape), state.dtype, starts, count, self._model.substeps)
        if key not in self._graphs:
            graph = _captured(step, state, values, starts, count)
            if self._compiles and self._model.execution[0] == "inductor":
                # more inputs would cost a call more time than fused operations take
                bind = binding(torch.compile(graph, backend="inductor", fullgraph=True, dynamic=False))
            else:
                bind = split_binding(graph, 2 if count else 1)
            if len(self._graphs) >= MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = bind
        return self._graphs[key]


def _places(learnables: Learnables) -> dict[str, int]:
    """Return the place of the first number of each learned parameter among those on which a sample depends."""
    places, place = {}, 0
    for name in learnables.learned:
        places[name] = place
        place += 1 if name in learnables.index else learnables.raw[name].numel()
    return places


class NotCaptured(Exception):
    """Raised where there is no graph to differentiate; the message says why."""


class Replay(nn.Module):
    """A model that returns known predictions `[B, steps, ...]` one after the other."""

    def __init__(self, predictions: Tensor) -> None:
        super().__init__()
        self._predictions = iter(predictions.unbind(1))

    def forward(self, state: Tensor) -> Tensor:
        return next(self._predictions)


def _captured(step: Run, state: Tensor, values: Sequence[Tensor], starts: int, count: int) -> GraphModule:
    """Return the graph of `step` for `starts` states and parameters, with `count` tangents unless that is 0.

    Its inputs are the states, their tangents, the parameters, and their tangents.
    """

    def along(now: Tensor, flow: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        def push(flow: Tensor, *rates: Tensor) -> tuple[Tensor, Tensor]:
            return push_forward(step, (now, *others[: len(values)]), (flow, *rates))

        new, change = torch.func.vmap(push)(flow, *others[len(values) :])
        return new[0], change

    given = [x.expand(starts, *x.shape).contiguous() for x in (state, *values)]
    try:
        if not count:
            return trace(torch.func.vmap(step), *given)
        now, flow, *rates = given[0], *(x.new_zeros(starts, count, *x.shape[1:]) for x in given)
        return trace(torch.func.vmap(along), now, flow, *given[1:], *rates)
    except Exception as error:
        raise NotCaptured(f"{type(error).__name__}: {str(error).strip()[:200]}") from error


def _power_of_two(count: int) -> int:
    """Return the smallest power of two from `count` on."""
    return 1 << (count - 1).bit_length()


def _with_more(derivative: Tensor, count: int) -> Tensor:
    """Return `[S, count, ...]`: the derivatives `[S, P, ...]`, and zeros for tangents that change no parameter."""
    more = count - derivative.shape[1]
    return torch.cat([derivative, derivative.new_zeros(len(derivative), more, *derivative.shape[2:])], dim=1)


def _with_zeros(change: Tensor, flow: Tensor) -> Tensor:
    flow = flow.clone()
    flow[:, :, :, : change.shape[3]] = change
    return flow
