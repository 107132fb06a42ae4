"""Units in equations: mistakes are told with both sides, and units that are not declared follow from the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from test_equations import model

from hyco_engine.cli import cli
from hyco_engine.equations.dimensions import written
from hyco_engine.equations.syntax import parse
from hyco_engine.errors import SpecError

pytest.importorskip("pint")
SI = {"u": "m/s", "x": "m", "t": "s"}
PARAMETERS = {"nu": 0.1, "a": 1.0}


def built(rate: str | dict[str, str], units: dict[str, str], resolution: tuple[int, ...] = (24,), **more: Any) -> Any:
    return model(rate, resolution, units=units, **{"parameters": PARAMETERS, **more})


def told(own: Any) -> str:
    return next(text for text in own.statements if text.startswith("the units fit: "))


@pytest.mark.parametrize(
    ("rate", "units", "message"),
    [
        (
            "nu*u + a*u*lap(u) + nu",
            SI,
            "column 1, at 'nu*u + a*u*lap(u) + ': adds nu*u + a*u*lap(u), in [a]/s**2, and nu, in [a]/m/s",
        ),
        (
            "nu*lap(u) + a*u - u*dx(u, 2)",
            SI | {"a": "1/s"},
            "subtracts nu*lap(u) + a*u, in m/s**2, and u*dx(u, 2), in 1/s**2",
        ),
        ("nu*a*u*u", SI | {"nu": "1", "a": "1"}, "the rate of u has the unit m/s**2, and this has m**2/s**2"),
        (
            "-u*dx(u) + nu*a*u",
            {"u": "cm/s", "x": "m", "t": "s"},
            "has the unit 0.01*m/s**2, and this has 0.0001*m/s**2",
        ),
        ("nu*a*sin(u)", SI, "column 10, at 'u)': sin takes a number without a unit, and u is in m/s"),
        ("nu*a*u*(1 - u)", SI, "column 9, at '1 - u)': subtracts 1, in 1, and u, in m/s"),
        ("nu*a*where(u > x, u, 0)", SI, "compares u, in m/s, and x, in m"),
        ("nu*a*max(u, t)", SI, "compares u, in m/s, and t, in s"),
        ("nu*a*u", {"u": "furlongz"}, "physical.units.u: 'furlongz' is not a unit that pint knows"),
        ("nu*a*u", {"u": "m**9**9"}, "physical.units.u: 'm**9**9' is not a unit that pint knows"),
        ("nu*a*u", {"w": "m"}, "physical.units: nothing has the name 'w'; there are u, nu, a, x, t"),
    ],
)
def test_mistakes_show_both_sides(rate: str, units: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        built(rate, units)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rate", "units", "found"),
    [
        ("nu*lap(u) - a*u*dx(u)", SI, "u in m/s, x in m, t in s, nu in m**2/s, a in 1"),
        (
            "nu*lap(u) - a*u*dx(u)",
            {"u": "m/s", "nu": "m**2/s", "a": "1"},
            "u in m/s, nu in m**2/s, a in 1, x in m, t in s",
        ),
        ("nu*lap(u) - a*sqrt(u)", {"t": "s"}, "t in s, nu in [x]**2/s, a in [u]**0.5/s"),
        (
            "nu*dx(u, 3) + a*exp(-x/2)*mean(u)",
            {"u": "m", "t": "day"},
            "u in m, t in 86400*s, x in 1, nu in 1.15741e-05/s, a in 1.15741e-05/s",
        ),
        ("nu*abs(u)*sign(a) + 0", SI, "u in m/s, x in m, t in s, nu in 1/s"),
    ],
)
def test_what_is_not_declared_follows(rate: str, units: dict[str, str], found: str) -> None:
    assert told(built(rate, units)) == f"the units fit: {found}"


def test_vectors_walls_and_starts_are_looked_at() -> None:
    own = built(
        {"v": "-advect(v, v) + nu*lap(v) + a*grad(p)", "p": "-dot(v, grad(p))"},
        {"v": "m/s", "x": "m", "p": "Pa"},
        (12, 12),
        vectors=["v"],
    )
    assert told(own).endswith("v in m/s, x in m, p in kg/m/s**2, y in m, nu in m**2/s, a in m**3/kg, t in s")
    with pytest.raises(SpecError, match="div"):
        built({"v": "nu*v", "p": "a*div(v)"}, {"v": "m/s", "x": "m", "y": "km", "p": "1"}, (12, 12), vectors=["v"])
    wall = {"x": {"lower": "a", "upper": 0.0}}
    own = built(
        "nu*lap(u)",
        {"u": "K", "x": "m", "t": "s"},
        boundary=wall,
        initial={"u": "a*exp(-x*x/(nu*t))"},
        parameters={"nu": 1.0, "a": 1.0, **{}},
    )
    assert "a in K" in told(own)


def test_parameters_have_the_units_that_follow() -> None:
    own = built("nu*lap(u) - a*u*dx(u)", SI)
    assert {name: own.learnables.declaration(name).unit for name in PARAMETERS} == {"nu": "m**2/s", "a": "1"}
    bare = built("nu*lap(u) - a*u*dx(u)", {})
    assert {name: bare.learnables.declaration(name).unit for name in PARAMETERS} == {"nu": "1", "a": "1"}
    state = bare.initial_states(1, torch.Generator().manual_seed(0))
    assert torch.equal(own(state), bare(state))


def test_the_command_shows_them(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(
        '[data]\nkind = "simulate"\nresolution = {x = 16}\ndt = 0.1\ntruth = {k = 1.0}\n[physical]\nkind = "equation"\n'
        'rates.u = "k*lap(u)"\nunits = {u = "K", x = "m", t = "s"}\nparameters.k.init = 2.0\n'
    )
    result = CliRunner().invoke(cli, ["equation", str(spec)])
    assert "the units fit: u in K, x in m, t in s, k in m**2/s" in result.stdout.splitlines()


def test_without_pint_the_message_names_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyco_engine.data import units

    monkeypatch.setitem(sys.modules, "pint", None)
    units.base_units.cache_clear()
    with pytest.raises(SpecError, match="units are checked by the package pint: install it"):
        built("nu*a*u", SI)


@pytest.mark.parametrize(
    "text", ["-(a + b)*c", "a - (b - c)", "a/(b*c)", "a**-2*dx(u, 3)", "where(a > b, -c, 0)", "(-a)**2"]
)
def test_expressions_are_written_as_they_were_read(text: str) -> None:
    again = parse(written(parse(text, "k")), "k")
    assert written(again) == written(parse(text, "k"))
    assert written(parse(text, "k")).replace(" ", "") == text.replace(" ", "").replace("**-2", "**(-2)")
