"""The plugin as a plugin: registration, data, model, a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import benchmark
import pytest
import torch
from hyco_engine_sequence.data import HEADS, EventRecords, constant_floors
from hyco_engine_sequence.model import MultiHeadLSTM
from hyco_engine_sequence.options import REACH, STEPS, EventRecordsOptions, MultiHeadLSTMOptions

import hyco_engine as hyco
from hyco_engine.errors import DataError
from hyco_engine.interfaces import TermSpec
from hyco_engine.training.losses import PredictorObjective
from hyco_engine.training.settings import TrainingSettings
from hyco_engine.training.trainer import Trainer


def source(seed: int = 0, **options: Any) -> EventRecords:
    return EventRecords(EventRecordsOptions(**options), seed)


def model(seed: int = 0, **options: Any) -> MultiHeadLSTM:
    return MultiHeadLSTM(MultiHeadLSTMOptions(**options), torch.Generator().manual_seed(seed))


# --- data -------------------------------------------------------------------------------------------------------------


def test_targets_say_what_the_record_shows() -> None:
    inputs, targets = source(noise=0.0, num_train=50).samples("train").batch(torch.arange(50))
    assert isinstance(inputs, torch.Tensor)
    assert isinstance(targets, dict)
    assert inputs.shape == (50, STEPS, 3)
    assert {name: list(target.shape[1:]) for name, target in targets.items()} == {
        "type": [],
        "pointer": [2],
        "binary": [STEPS],
        "countdown": [STEPS],
    }
    position, activity, state = inputs.unbind(-1)
    assert torch.equal(position[:, -1], targets["type"] - 1.0)
    assert torch.equal(activity, targets["binary"])
    first, end = (targets["pointer"] * STEPS).round().long().unbind(-1)
    assert torch.equal(end - first, activity.sum(1).long())
    assert torch.equal((state > 0).float().argmax(1), first)
    assert (targets["countdown"].gather(1, first[:, None]) == 0).all()
    assert targets["countdown"].max() == REACH
    assert targets["countdown"].min() == -REACH


def test_the_seed_decides_and_splits_are_independent() -> None:
    one, again, other = source(0), source(0), source(1)
    index = torch.arange(8)
    same = [part.samples("train").batch(index)[0] for part in (one, again, other)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])
    assert not torch.equal(same[0], one.samples("val").batch(index)[0])
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert len(one.samples("test")) == 0


def test_constant_predictions_have_the_floors_that_the_readme_names() -> None:
    floors = constant_floors(source(num_train=5000).samples("train"))
    # 20 - 400 / 105, and 40 / 105 times the mean distance of 45 equally likely bars from their middle
    assert floors["zero"] == pytest.approx(20 - 400 / 105, abs=0.01)
    assert floors["median"] == pytest.approx(40 / 105 * 506 / 45, abs=0.15)


# --- model ------------------------------------------------------------------------------------------------------------


def test_a_cross_entropy_counts_as_one_value_whatever_its_classes() -> None:
    sizes = {term.name: term.n_elements for term in model().terms}
    assert sizes == {"type": 1, "pointer": 2, "binary": STEPS, "countdown": STEPS}
    scalar = {term.name: term.n_elements for term in model(countdown="scalar").terms}
    assert scalar["countdown"] == 1


@pytest.mark.parametrize("countdown", ["per-step", "scalar"])
def test_heads_have_their_shapes_and_all_learn(countdown: Any) -> None:
    network = model(countdown=countdown)
    terms = PredictorObjective(network.terms)(network, source().samples("train").batch(torch.arange(4)))
    assert [term.spec.name for term in terms] == list(HEADS)
    torch.stack([term.mean() for term in terms]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_a_scalar_countdown_falls_by_one_each_bar_within_its_reach() -> None:
    network = model(countdown="scalar", countdown_scale=1.0)
    countdown = network(torch.zeros(1, STEPS, 3))["countdown"][0].detach()
    inside = countdown[countdown.abs() < REACH]
    assert torch.allclose(inside.diff(), torch.tensor(-1.0))
    assert countdown[0] == REACH
    assert countdown[-1] == -REACH


def test_the_declared_scale_multiplies_the_head_and_is_the_terms_scale() -> None:
    plain, scaled = model(countdown_scale=1.0), model(countdown_scale=20.0)
    record = source().samples("train").batch(torch.arange(3))[0]
    outputs = plain(record), scaled(record)
    assert torch.allclose(20 * outputs[0]["countdown"], outputs[1]["countdown"])
    assert torch.equal(outputs[0]["pointer"], outputs[1]["pointer"])
    assert [term.scale for term in scaled.terms if term.name == "countdown"] == [20.0]


def test_weights_come_from_the_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, again = model(7), model(7)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_inputs_by_name_are_refused() -> None:
    with pytest.raises(DataError, match=r"reads one tensor \[B, 105, 3\]"):
        model()({"record": torch.zeros(1, STEPS, 3)})


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_weight_of_a_loss_does_nothing_to_a_head_alone_under_adam() -> None:
    """Weights act through the shared trunk only."""
    data = source(num_train=128).samples("train")
    for seed in (0, 1, 2):
        heads = []
        for weight in (0.1, 1.0, 100.0):
            network = model(seed, countdown_scale=1.0).requires_grad_(False)
            network.countdown_head.requires_grad_(True)
            specs = [TermSpec(name="countdown", kind="laplace", n_elements=STEPS, priority=weight)]
            trainer = Trainer(
                network,
                player="synthetic",
                settings=TrainingSettings(optimizer="adamw", lr=1e-3, weight_decay=0.01),
                objective=PredictorObjective(specs),
            )
            trainer.train(data, 10)
            heads.append(torch.cat([parameter.detach().flatten() for parameter in network.countdown_head.parameters()]))
        assert float((heads[0] - heads[1]).abs().max()) <= 1e-4
        assert float((heads[2] - heads[1]).abs().max()) <= 1e-4


def test_it_runs_through_the_engine_and_the_spec(tmp_path: Path) -> None:
    small = {
        "paths.runs": str(tmp_path / "runs"),
        "paths.cache": str(tmp_path / "cache"),
        "training.synthetic.epochs_per_cycle": 1,
        "data.num_train": 64,
        "data.num_val": 32,
        "synthetic.width": 8,
    }
    found = []
    for normalizer in ("manual", "sqrt-dim", "uncertainty"):
        overrides = {**small, "loss.normalizer": {"kind": normalizer}}
        result = hyco.run(benchmark.SPEC, registry=benchmark.registry(), overrides=overrides)
        assert result.summary["status"] == "completed"
        found.append(result.summary["metrics"]["synthetic"]["val"]["loss_by_field"])
    assert all(sorted(losses) == sorted(HEADS) for losses in found)
    assert len({losses["pointer"] for losses in found}) == 3


def test_every_remedy_is_a_setting_of_the_spec() -> None:
    plugins = benchmark.registry()
    for name, overrides in benchmark.REMEDIES.items():
        spec = benchmark.load_spec(benchmark.SPEC, plugins, overrides).spec
        assert spec.synthetic is not None, name
        assert attrs.has(type(spec.synthetic.options)), name
