"""Equations that a spec contains as text.

Equation        u_t = rates.u, or 0 = steady.u, for each field, on a grid or without space; words: docs/equations.md
Fields          those of `rates`: scalars, or vectors with a component for each axis; centred
Parameters      those of [physical.parameters], such as `nu`, each with a start value there: numbers or fields
Time            `t` in rates, and measured series among the constants: at each stage of a step its own
Boundary        any; periodic where the data names none
Solutions       those of the equations

scheme = "spectral" (default where all sides are periodic)
    Space: Fourier pseudo-spectral, products from the lower two thirds of the waves. c u u_x is evaluated as
    c (u u)_x / 2, and what is written as a divergence or a derivative of a flux is conserved. Time: exponential
    Runge-Kutta (ETDRK4), of fourth order: the terms of a field's rate that are linear in it, with coefficients that are
    the same everywhere, are exact, however stiff they are.
scheme = "finite-difference" (default else)
    Space: central differences of fourth order. c u u_x is split as c (u u_x + (u u)_x) / 3, which keeps the sums of u
    and u^2; d/dx (a du/dx) is conservative on five points. Beyond a side with a rule, fields continue as even or odd
    functions, and what is computed from fields follows from their continuation: order 2 at sides with a constant other
    than 0. Time: classical Runge-Kutta. With "auto", where all sides mirror the fields (zero-gradient, symmetric,
    antisymmetric, 0) and linear terms of even order would need four times as many internal steps, these are exact by
    cosine and sine transforms of the same differences, and time is ETDRK4.

scheme = "shock"
    Space: WENO reconstructions of fifth order from the upwind side for fluxes and advective products, and central
    differences of fourth order for all else. Time: strong-stability-preserving Runge-Kutta of third order.

Steady equations
    `steady.u` in place of `rates.u` is 0 for states that do not change. Newton's method with sparse factors of central
    differences of fourth order, or multigrid on large grids; derivatives by the implicit function theorem.

Without space
    Classical Runge-Kutta, with as many internal steps as are accurate: at states of the data and with the present
    parameters, twice as many change a frame by less than 1e-6 of the spread of a field.

On a grid, internal steps follow from the symbol of the rates, linearised about constant states up to the largest
values of the data, with slopes as of waves 16 cells long: no wave may grow more in a step than the equation lets it
grow. With scheme = "shock", the fastest wave crosses less than a cell, too.
Numerical diffusion: none, but at shocks and steep fronts with scheme = "shock".

References      S. M. Cox, P. C. Matthews, J. Comput. Phys. 176 (2002); C. Canuto et al., Spectral Methods (2007); B.
                Gustafsson, H.-O. Kreiss, J. Oliger, Time Dependent Problems and Difference Methods (1995); G.-S.
                Jiang, C.-W. Shu, J. Comput. Phys. 126 (1996)
"""

from __future__ import annotations

import attrs
import torch

from hyco_engine.builtin.models.equation_physics import Equation
from hyco_engine.builtin.models.equation_steady import SteadyEquation
from hyco_engine.builtin.models.equation_system import System
from hyco_engine.builtin.models.options_physical import EquationOptions, Series
from hyco_engine.builtin.models.series import read_series
from hyco_engine.data.fields import Boundary, FieldInfo
from hyco_engine.equations.meaning import KEY, Meaning, Texts
from hyco_engine.equations.schemes import Central, Fourier, Mirroring, Scheme, Upwind
from hyco_engine.errors import DataError, SpecError
from hyco_engine.interfaces import PhysicsContext
from hyco_engine.physics.model import TorchModel
from hyco_engine.physics.steady_model import SteadyModel

STIFF = 4.0
"""A linear part is exact at walls if it would need so many times as many internal steps: transforms take longer."""


def _scheme(options: EquationOptions, meaning: Meaning, context: PhysicsContext) -> Scheme:
    """Return the scheme that is asked for, or chosen by the sides. Raises SpecError if it does not fit them."""
    if options.scheme == "shock":
        return Upwind(meaning)
    layout = meaning.layout
    infos = [*layout.dynamic, *(layout.field(symbol.name) for symbol in meaning.statics)]
    open_ = [
        (info.name, axis)
        for info in infos
        for axis in layout.grid.axes
        if info.sampling == "centered" and not info.boundary.is_periodic(axis)
    ]
    if options.scheme == "spectral" and open_:
        name, axis = open_[0]
        raise SpecError(
            f'"spectral" needs periodic sides, and {name!r} is not periodic along {axis}: set '
            'data.boundary = "periodic" if the data are periodic, or choose "finite-difference"',
            key=f"{KEY}.scheme",
        )
    if options.scheme == "finite-difference":
        return Central(meaning)
    return _at_walls(options, meaning, context) if open_ else Fourier(meaning)


def _at_walls(options: EquationOptions, meaning: Meaning, context: PhysicsContext) -> Scheme:
    """Return differences, with linear terms that are exact where it saves most of the internal steps.

    That follows from the spec and the grid alone, so that it is the same whenever a model is built.
    """
    plain = Central(meaning)
    if not Mirroring.fits(meaning) or context.dt is None:
        return plain
    exact = Mirroring(meaning)
    if not exact.exact:
        return plain
    start = {one.name: torch.tensor(one.init, dtype=torch.float64) for one in meaning.parameters}
    dt = context.inner_dt or context.dt
    needed, left = (
        max(1.0, Equation(options, meaning, one, context.times).least_steps(meaning.layout, {}, start, dt))
        for one in (plain, exact)
    )
    # a step that the user set has its number, and only has to be stable
    return exact if needed > (STIFF if context.inner_dt is None else 1.0) * left else plain


def build(options: EquationOptions, context: PhysicsContext) -> TorchModel | SteadyModel:
    """Build the model; the registry calls this factory."""
    given = context.layout
    grid = given.grid if given is not None else context.grid
    if grid is None:
        raise DataError("an equation needs data on a grid, and this data has none", key="physical.kind")
    boundary = Boundary.parse("periodic", grid.axes)
    dynamic, static = (
        [
            FieldInfo(
                name=name,
                components=grid.axes if name in options.vectors and len(grid.axes) > 1 else (),
                boundary=boundary,
            )
            for name in names
        ]
        for names in (options.texts, options.inputs)
    )
    if given is not None:
        known = {info.name: info for info in given.dynamic}
        dynamic = [known.get(info.name, info) for info in dynamic]
        if odd := [info.name for info in dynamic if info.sampling != "centered"]:
            raise DataError(f"an equation needs centred fields, and {odd[0]!r} is staggered", key="data.fields")
    layout = context.layout_for(dynamic, static if given is None else ())
    texts = [text for info in layout.fields for text in info.boundary.formulas.values()]
    timed = options.uses_time() or any(options.is_timed(text) for text in texts)
    if given is None and context.dt is not None and timed:
        layout = attrs.evolve(layout, static=(*layout.static, FieldInfo.time(grid.axes, context.dt)))
    meaning = Meaning.of(_texts(options), layout, context.parameters)
    if options.steady:
        return SteadyModel(SteadyEquation(options, meaning, context.parameters), context)
    if grid.axes:
        found = context.statistics
        unread = found is None or bool(found.lowest[: layout.n_dynamic].isnan().any())
        assumes = unread and context.inner_dt is None
        scheme = _scheme(options, meaning, context)
        return TorchModel(Equation(options, meaning, scheme, context.times, assumes=assumes), context)
    return TorchModel(System(options, meaning, context), context)


def _texts(options: EquationOptions) -> Texts:
    """Return the equation as the spec has it, with its series read. Raises DataError."""
    return Texts(
        key=options.key,
        fields=options.texts,
        initial=options.initial,
        units=options.units,
        constants={name: own for name, own in options.constants.items() if isinstance(own, float | int)},
        series={name: read_series(own, name) for name, own in options.constants.items() if type(own) is Series},
        inputs=options.inputs,
    )
