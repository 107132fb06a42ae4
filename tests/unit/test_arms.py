"""Several strategies tried side by side, and what is kept of them."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_specs import TINY
from torch import nn

import hyco_engine as hyco
from hyco_engine.errors import PluginError, SpecError
from hyco_engine.interfaces import Arm, CycleContext, Phase, Strategy
from hyco_engine.runs.keeper import Interrupted
from hyco_engine.runs.metrics import of_kept_arms, read_metrics
from hyco_engine.training.candidates import candidates_of

ALONE = {"kind": "count", "alpha": 0.0}
TAUGHT = {"kind": "count", "alpha": 1.0}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def spec(augmentation: dict[str, Any], **tables: Any) -> dict[str, Any]:
    return copy.deepcopy(TINY) | {"augmentation": augmentation} | tables


def arms(*choices: dict[str, Any], **tables: Any) -> dict[str, Any]:
    return spec({"kind": "two-arms", "arms": list(choices)}, **tables)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], hyco.RunResult]:
    """Give the run of one strategy alone, which is made once."""

    @functools.cache
    def of(kind: str, alpha: float) -> hyco.RunResult:
        folder = tmp_path_factory.mktemp("single")
        return hyco.run(spec({"kind": kind, "alpha": alpha}, paths={"cache": str(folder)}), run_dir=folder / "run")

    return lambda choice: of(**choice)


def weights(model: nn.Module | None) -> list[torch.Tensor]:
    assert model is not None
    return [value.detach().clone() for value in model.state_dict().values()]


def same(first: nn.Module | None, second: nn.Module | None) -> bool:
    return all(map(torch.equal, weights(first), weights(second)))


def validation_error(result: hyco.RunResult, player: str) -> float:
    return float(result.summary["metrics"][player]["val"]["nrmse"])


def smallest_error(result: hyco.RunResult, player: str) -> float:
    """Return the smallest validation error at the end of a phase."""
    lines = [line for line in read_metrics(result.folder) if line["phase"] == f"train_{player}"]
    return float(min(line["val/vrmse"] for line in lines if "val/vrmse" in line))


def test_each_arm_is_the_run_it_would_be_alone_and_the_better_one_is_kept(
    single: Callable[[dict[str, Any]], hyco.RunResult],
) -> None:
    alone = [single(choice) for choice in (TAUGHT, ALONE)]
    both = hyco.run(arms(TAUGHT, ALONE))
    for player in ("physical", "synthetic"):
        told = both.summary["arms"][player]
        errors = [validation_error(result, player) for result in alone]
        assert list(told["errors"]) == ["count-1", "count-2"]
        assert list(told["errors"].values()) == pytest.approx(errors, rel=1e-6)
        better = errors.index(min(errors))
        assert told["kept"] == f"count-{better + 1}"
        assert same(getattr(both, player), getattr(alone[better], player))
        assert not same(getattr(both, player), getattr(alone[1 - better], player))
        # what was computed counts, not what was kept
        trained = [result.summary["trained"][player]["samples"] for result in alone]
        assert both.summary["trained"][player]["samples"] == sum(trained)
    assert both.summary["cycles"] == 2


def test_the_best_of_three_arms_is_kept(single: Callable[[dict[str, Any]], hyco.RunResult]) -> None:
    choices = [ALONE, TAUGHT, {"kind": "count", "alpha": 0.5}]
    alone = [single(choice) for choice in choices]
    found = hyco.run(arms(*choices))
    for player in ("physical", "synthetic"):
        errors = [validation_error(result, player) for result in alone]
        assert list(found.summary["arms"][player]["errors"].values()) == pytest.approx(errors, rel=1e-6)
        assert same(getattr(found, player), getattr(alone[errors.index(min(errors))], player))


class StopAt:
    def __init__(self, moment: int | None = None) -> None:
        self.moment, self.asked = moment, 0

    def __call__(self) -> str | None:
        self.asked += 1
        return None if self.moment is None or self.asked < self.moment else "SIGTERM"


def run(folder: Path, stop: Callable[[], str | None], *, resume: bool = False, cycles: int = 2) -> hyco.RunResult:
    made = arms(ALONE, {"kind": "trust", "alpha": 1.0, "warmup": 1}, run={"name": "tiny", "cycles": cycles})
    # any other schedule depends on the number of cycles
    made["training"]["synthetic"]["schedule"] = "constant"
    return hyco.Engine(made).run(folder, resume=resume, stop=stop)


def test_stopped_and_resumed_it_is_the_run_that_was_not(tmp_path: Path) -> None:
    count = StopAt()
    whole = run(tmp_path / "whole", count)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run(folder, StopAt(int(count.asked * 0.3)))
    with pytest.raises(Interrupted):
        run(folder, StopAt(int(count.asked * 0.5)), resume=True)
    resumed = run(folder, StopAt(), resume=True)
    assert same(resumed.physical, whole.physical)
    assert same(resumed.synthetic, whole.synthetic)
    assert resumed.summary["arms"] == whole.summary["arms"]
    assert resumed.summary["cooperation"] == whole.summary["cooperation"]


def test_more_cycles_go_on_with_both_arms(tmp_path: Path) -> None:
    run(tmp_path / "run", StopAt(), cycles=1)
    longer = run(tmp_path / "run", StopAt(), resume=True, cycles=2)
    whole = run(tmp_path / "whole", StopAt(), cycles=2)
    assert same(longer.physical, whole.physical)
    assert same(longer.synthetic, whole.synthetic)
    assert longer.summary["arms"] == whole.summary["arms"]


def test_without_a_cycle_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    nothing = run(tmp_path / "run", StopAt(), cycles=0)
    assert (nothing.summary["status"], nothing.summary["arms"]) == ("completed", {})


def test_the_plan_has_the_phases_of_both() -> None:
    trust = {"kind": "trust", "alpha": 1.0, "warmup": 3}
    plan = hyco.Engine(arms(ALONE, trust, run={"name": "tiny", "cycles": 1})).plan()
    assert [(p["arm"], p["phase"], p["epochs"], p["n_generated"]) for p in plan["phases"]] == [
        ("count", "train_synthetic", 2, 0),
        ("count", "train_physical", 2, 0),
        ("trust", "train_physical", 3, 0),
        ("trust", "train_synthetic", 2, 0),
        ("trust", "train_physical", 2, 10),
        ("trust", "train_physical", 3, 0),
    ]
    assert plan["n_generated"] == 10


@pytest.mark.parametrize(
    ("choices", "key", "message"),
    [
        ([ALONE], "augmentation.arms", "must list two strategies or more, not 1"),
        ([ALONE, {"kind": "trusty"}], "augmentation.arms[1].kind", "trusty"),
        ([ALONE, {"kind": "trust", "warm": 1}], "augmentation.arms[1].warm", "did you mean 'warmup'?"),
        ([ALONE, {"kind": "trust", "alpha": -1.0}], "augmentation.arms[1].alpha", "-1"),
        (
            [ALONE, {"kind": "interaction", "cooperate": 2, "teach": "synthetic"}],
            "augmentation.arms[1]",
            "cooperate sets for how many cycles the physics is taught",
        ),
    ],
)
def test_mistakes_are_located(choices: list[dict[str, Any]], key: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        hyco.Engine(arms(*choices))
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message


@pytest.mark.parametrize("order", [1, -1])
def test_a_normalizer_knows_the_terms_of_its_own_arm_alone(order: int) -> None:
    # candidates are compared before a polish, which `cooperate` leaves out
    choices = [{"kind": "interaction", "alpha": 0.5, "points": 8, "cooperate": 1}, TAUGHT][::order]
    loss = {"normalizer": {"kind": "uncertainty"}}
    single = [hyco.run(spec(choice, loss=loss)) for choice in choices]
    both = hyco.run(arms(*choices, loss=loss))
    for player in ("physical", "synthetic"):
        errors = [smallest_error(result, player) for result in single]
        assert list(both.summary["arms"][player]["errors"].values()) == pytest.approx(errors, rel=1e-6)


def test_initial_states_are_learned_by_each_arm() -> None:
    made = [spec(ALONE), spec(TAUGHT), arms(ALONE, TAUGHT)]
    for one in made:
        one["training"]["physical"] |= {"optimizer": "lbfgs", "initial_states": "learned"}
    *single, both = map(hyco.run, made)
    errors = [validation_error(result, "physical") for result in single]
    assert list(both.summary["arms"]["physical"]["errors"].values()) == pytest.approx(errors, rel=1e-6)


def test_an_arm_whose_error_is_no_number_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter([math.nan, math.nan, 0.5, 0.7])
    monkeypatch.setattr("hyco_engine.training.evaluation.HeldOutRollouts.score", lambda *args: next(asked, 1.0))
    result = hyco.run(arms(ALONE, TAUGHT, run={"name": "tiny", "cycles": 1}))
    assert {player: told["kept"] for player, told in result.summary["arms"].items()} == {
        "physical": "count-2",
        "synthetic": "count-2",
    }


def test_arms_of_arms_are_refused() -> None:
    inner = {"kind": "two-arms", "arms": [ALONE, TAUGHT]}
    with pytest.raises(SpecError) as caught:
        hyco.Engine(arms(ALONE, inner)).plan()
    (problem,) = caught.value.problems
    assert problem.key == "augmentation.arms[1].kind"
    assert problem.message == "the candidate 'two-arms' has candidates itself: list its arms here instead"


def test_a_plugin_whose_arms_have_arms_is_named() -> None:
    class Nested(Strategy):
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def arms(self) -> tuple[Arm, ...]:
            inner = [Arm(name=name, strategy=Nested(self.depth - 1)) for name in ("one", "other")]
            return tuple(inner) if self.depth else ()

        def augment(self, phase: Phase, context: CycleContext) -> None:
            return None

    assert [arm.name for arm in candidates_of(Nested(1))] == ["one", "other"]
    with pytest.raises(PluginError, match=r"^the arm 'one' of Nested has arms itself, which the engine never asks$"):
        candidates_of(Nested(2))


# last in the module, since what follows would find error bars too, whose records are of no arm
@pytest.mark.usefixtures("measured")
def test_records_tell_the_arms_apart(single: Callable[[dict[str, Any]], hyco.RunResult]) -> None:
    both = hyco.run(arms(ALONE, TAUGHT))
    alone = single(TAUGHT)
    told = read_metrics(both.folder)
    assert {record.get("arm") for record in told} == {"count-1", "count-2", None}
    kept = {"arms": {player: {"kept": "count-2"} for player in ("physical", "synthetic")}}
    losses = [
        [record["train/loss"] for record in records if "train/loss" in record]
        for records in (of_kept_arms(told, kept), read_metrics(alone.folder))
    ]
    assert losses[0] == losses[1]
    assert {record.get("arm") for record in of_kept_arms(told, {"status": "interrupted"})} == {"count-1", None}
    assert all("arm" not in record for record in read_metrics(alone.folder))
    assert alone.summary["arms"] == {}
    balance = [(entry["cycle"], entry["arm"]) for entry in both.summary["balance"]]
    assert balance == [(c, arm) for c in (0, 1) for arm in ("count-1", "count-2") for _ in range(2)]
    assert all("arm" not in entry for entry in alone.summary["balance"])
    nothing = [text for text in both.summary["warnings"] if "nothing is generated" in text]
    assert nothing
    assert all(text.startswith(("cycle 0, arm count-1: ", "cycle 1, arm count-1: ")) for text in nothing)
