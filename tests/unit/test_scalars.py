"""Numbers known of whole simulations: where each source finds them, and that they stay with their simulation."""

from __future__ import annotations

import json
import math

import h5py
import numpy as np
import pytest
import torch
from data_cases import ListSource, choice, numbered

import hyco_engine as hyco
from hyco_engine.assembly import Assembler
from hyco_engine.data.manager import DataManager
from hyco_engine.data.settings import Noise, Observe, Split
from hyco_engine.errors import HycoError

pytestmark = pytest.mark.usefixtures("measured")


def assembler_of(tmp_path, data, **tables):
    spec = {
        "paths": {"cache": str(tmp_path / "cache"), "runs": str(tmp_path / "runs")},
        "data": {"num_predict_steps": 1, **data},
        "physical": {"kind": "heat"},
        **tables,
    }
    engine = hyco.Engine(spec)
    return Assembler(engine.spec, engine.registry)


def manager_of(tmp_path, data, **tables):
    return assembler_of(tmp_path, data, **tables).task().simulations()


def scalars_of(manager):
    return {name: values.tolist() for name, values in manager.scalars().items()}


# --- with the data ---


class Known(ListSource):
    def scalars(self, index):
        return {"nu": 0.1 * index, "Re": 10.0 + index}

    def labels(self, index):
        return {"rig": "AB"[index % 2]}


@pytest.mark.parametrize("observe", [Observe(), Observe(noise=Noise(level=0.1))], ids=["clean", "noisy"])
def test_scalars_and_labels_stay_with_their_simulation(tmp_path, observe):
    source = Known(trajectories=[numbered(6, i) for i in range(5)])
    for _ in range(2):  # made, and then read from the cache
        manager = DataManager(source, choice(observe=observe, split=Split(test="4:"), scale={"u": 2.0}), tmp_path)
        assert [t.scalars for t in manager.trajectories] == [source.scalars(i) for i in range(5)]
        assert [t.labels["rig"] for t in manager.trajectories] == list("ABABA")
        assert [t.simulation for t in manager.train.trajectories] == [0, 1, 2]
        assert manager.heldout("val")[0].scalars == {"nu": 0.1 * 3, "Re": 13.0}
        assert manager.heldout("test")[0].simulation == 4
        assert manager.scalars("train")["Re"].tolist() == [10.0, 11.0, 12.0]
        assert manager.scalars("test")["nu"].dtype == torch.float64
    assert len(source.loaded) == 5


def test_a_split_in_time_gives_each_stretch_the_scalars_of_its_simulation():
    source = Known(trajectories=[numbered(10, i) for i in range(2)])
    manager = DataManager(source, choice(split=Split(by="time", val="4:6"), num_predict_steps=1), None)
    assert manager.scalars("train")["Re"].tolist() == [10.0, 10.0, 11.0, 11.0]
    assert [t.scalars["Re"] for t in manager.train.trajectories] == [10.0, 10.0, 11.0, 11.0]


def test_a_run_is_not_resumed_on_other_scalars():
    from hyco_engine.tasks import GridTask

    def digest(shift):
        class Other(Known):
            def scalars(self, index):
                return {"nu": 0.1 * index + shift}

        task = GridTask(DataManager(Other(trajectories=[numbered(6, i) for i in range(3)]), choice(), None))
        task.read()
        return task.digest()

    assert digest(0.0) == digest(0.0) != digest(0.1)


# --- arrays ---


def arrays(tmp_path, **more):
    u = np.random.default_rng(0).normal(size=(4, 5, 8)).cumsum(1)
    np.savez(tmp_path / "runs.npz", u=u, **more)
    return {
        "kind": "arrays",
        "path": str(tmp_path / "runs.npz"),
        "variables": {"u": "u"},
        "axes": "stx",
        "dt": 0.1,
        "bounds": {"x": [0.0, 1.0]},
        "boundary": "periodic",
    }


def test_arrays_with_a_number_for_each_simulation_are_known(tmp_path):
    data = arrays(
        tmp_path,
        viscosity=np.array([1, 2, 3, 4]),
        p=np.arange(8.0).reshape(4, 2),
        other=np.ones(3),
        broken=np.array([1, np.nan, 2, 3]),
        grid=np.zeros((4, 5, 8)),
    )
    found = scalars_of(manager_of(tmp_path, {**data, "scalars": {"nu": "viscosity", "k": "p[1]"}}))
    assert found == {"nu": [1.0, 2.0, 3.0, 4.0], "k": [1.0, 3.0, 5.0, 7.0]}
    assert scalars_of(manager_of(tmp_path, data)) == {}, "only what the spec names counts"
    by_value = {"by": "value", "name": "viscosity", "val": "2.0"}
    assert set(scalars_of(manager_of(tmp_path, {**data, "split": by_value}))) == {"viscosity"}
    assert set(scalars_of(manager_of(tmp_path, {**data, "fields": {"scalars": ["p[0]"]}}))) == {"p[0]"}
    from_file = {"kind": "heat", "parameters": {"kappa": {"from": "viscosity"}}}
    assert set(scalars_of(manager_of(tmp_path, data, physical=from_file))) == {"viscosity"}


def test_the_number_beside_a_single_simulation_is_known(tmp_path):
    data = arrays(tmp_path, nu=0.3, t=np.arange(5) * 0.1)
    np.savez(tmp_path / "runs.npz", u=np.random.default_rng(0).normal(size=(5, 8)), nu=0.3, x=np.arange(8))
    data |= {"axes": "tx", "split": {"by": "time"}, "scalars": {"nu": "nu"}}
    assert scalars_of(manager_of(tmp_path, data)) == {"nu": [0.3]}


def test_numbers_in_matlab_files_are_known_whatever_their_shape(tmp_path):
    import scipy.io

    u = np.random.default_rng(0).normal(size=(4, 5, 8))
    scipy.io.savemat(tmp_path / "runs.mat", {"u": u, "nu": np.arange(4.0), "Re": np.arange(4.0)[:, None]})
    data = {**arrays(tmp_path), "path": str(tmp_path / "runs.mat"), "scalars": {"nu": "nu", "Re": "Re"}}
    assert scalars_of(manager_of(tmp_path, data)) == {"nu": [0.0, 1.0, 2.0, 3.0], "Re": [0.0, 1.0, 2.0, 3.0]}


def test_a_scalar_that_the_data_lacks_is_told(tmp_path):
    data = arrays(tmp_path, viscosity=np.arange(4.0))
    with pytest.raises(HycoError) as found:
        manager_of(tmp_path, {**data, "scalars": {"nu": "viscosty"}})
    (problem,) = found.value.problems
    assert problem.key == "data.scalars.nu"
    assert problem.message == (
        "the data has no number 'viscosty' for each of its 4 simulations; did you mean 'viscosity'? (it has viscosity)"
    )


# --- The Well, PDEBench, Scenes ---


def write_well(path, simulations, **scalars):
    """Write one file of The Well; a scalar is a number, or one for each simulation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update({"grid_type": "cartesian", "n_trajectories": simulations, "n_spatial_dims": 1})
        file.attrs["simulation_parameters"] = [name for name, value in scalars.items() if np.ndim(value) == 0]
        for name in file.attrs["simulation_parameters"]:
            file.attrs[name] = scalars[name]
        dimensions = file.create_group("dimensions")
        dimensions.attrs["spatial_dims"] = ["x"]
        dimensions["time"], dimensions["x"] = np.arange(4) * 0.5, (np.arange(8) + 0.5) / 8
        conditions = file.create_group("boundary_conditions/x_periodic")
        conditions.attrs.update({"associated_dims": ["x"], "associated_fields": [], "bc_type": "PERIODIC"})
        group = file.create_group("scalars")
        group.attrs["field_names"] = list(scalars)
        for name, value in scalars.items():
            group[name] = value
            group[name].attrs.update({"sample_varying": np.ndim(value) == 1, "time_varying": False})
        group["clock"] = np.arange(4.0)
        group["clock"].attrs.update({"sample_varying": False, "time_varying": True})
        fields = file.create_group("t0_fields")
        fields.attrs["field_names"] = ["u"]
        fields["u"] = np.random.default_rng(0).normal(size=(simulations, 4, 8)).astype(np.float32)
        fields["u"].attrs.update({"sample_varying": True, "time_varying": True, "dim_varying": [True]})


def test_the_well_gives_scalars_and_simulation_parameters(tmp_path):
    folder = tmp_path / "data"
    write_well(folder / "train" / "a.hdf5", 2, F=0.014, k=0.054, seed=np.array([3.0, 4.0]))
    write_well(folder / "train" / "b.hdf5", 1, F=0.022, k=0.051, seed=np.array([5.0]))
    write_well(folder / "valid" / "c.hdf5", 2, F=0.029, k=0.057, seed=np.array([6.0, 7.0]))
    assert scalars_of(manager_of(tmp_path, {"kind": "well", "path": str(tmp_path), "scalars": {"feed": "F"}})) == {
        "feed": [0.014, 0.014, 0.022, 0.029, 0.029],
        "k": [0.054, 0.054, 0.051, 0.057, 0.057],
        "seed": [3.0, 4.0, 5.0, 6.0, 7.0],
    }


def test_parameters_that_some_files_of_the_well_lack_are_left_out(tmp_path):
    write_well(tmp_path / "a.hdf5", 1, F=0.014, k=0.054)
    write_well(tmp_path / "b.hdf5", 1, F=0.022)
    assert scalars_of(manager_of(tmp_path, {"kind": "well", "path": str(tmp_path)})) == {"F": [0.014, 0.022]}


def test_pdebench_gives_its_attributes(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["tensor"] = np.random.default_rng(0).normal(size=(2, 4, 8))
        file["t-coordinate"], file["x-coordinate"] = np.arange(5) * 0.1, (np.arange(8) + 0.5) / 8
        file.attrs.update({"Nu": 0.01, "rho": np.array([2.0]), "name": "burgers"})
    data = {"kind": "pdebench", "path": str(tmp_path / "a.hdf5"), "boundary": "periodic", "scalars": {"nu": "Nu"}}
    assert scalars_of(manager_of(tmp_path, data)) == {"rho": [2.0, 2.0], "nu": [0.01, 0.01]}


def test_pdebench_gives_the_attributes_and_the_configuration_of_each_group(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for index in range(3):
            group = file.create_group(f"{index:04d}")
            group["data"] = np.random.default_rng(index).normal(size=(4, 8, 1))
            group["grid/t"], group["grid/x"] = np.arange(4) * 0.1, (np.arange(8) + 0.5) / 8
            group.attrs["config"] = (
                f"work_dir: /tmp/{index}\nsim:\n  _target_: src.Sim\n  k: {5e-3 * (index + 1)}\n  x: 1\n"
                f"  t: -2.5e-1\nplot:\n  x: 2\n  show: true\n"
            )
            group.attrs["inflow"] = float(index)
    data = {"kind": "pdebench", "path": str(tmp_path / "a.h5"), "boundary": "periodic"}
    assert scalars_of(manager_of(tmp_path, data)) == {
        "k": [0.005, 0.01, 0.015],
        "t": [-0.25] * 3,
        "inflow": [0.0, 1.0, 2.0],
    }


def test_scenes_give_the_numbers_of_their_description(tmp_path):
    data = {"kind": "simulate", "resolution": {"x": 8}, "dt": 0.1, "num_simulations": 3}
    data["truth"] = {"kappa": {"uniform": [0.01, 0.1]}}
    written = hyco.Engine({"data": {**data, "num_frames": 3, "num_predict_steps": 1}, "physical": {"kind": "heat"}})
    from hyco_engine.simulating import write_simulations

    assembler = Assembler(written.spec, written.registry)
    expected = scalars_of(assembler.task().simulations())
    write_simulations(assembler, tmp_path / "scenes", "scene")
    for index in range(3):
        path = tmp_path / "scenes" / f"sim_{index:06d}" / "description.json"
        about = json.loads(path.read_text())
        path.write_text(json.dumps({**about, "flow": {"Re": 100 + index}, "done": True, "who": "x"}))
    found = scalars_of(manager_of(tmp_path, {"kind": "scene", "path": str(tmp_path / "scenes")}))
    assert found == {**expected, "flow.Re": [100.0, 101.0, 102.0]}
    assert len(set(expected["kappa"])) == 3


# --- simulate ---


def simulated(tmp_path, truth, count=6, seed=0, kind="gray-scott", **more):
    data = {"kind": "simulate", "resolution": {"x": 8, "y": 8}, "dt": 1.0, "num_simulations": count, "truth": truth}
    data |= {"num_frames": 3, **more}
    return manager_of(tmp_path, data, physical={"kind": kind}, run={"seed": seed})


SHARED = {"Du": 1e-3, "Dv": 5e-4}


def test_drawn_values_follow_their_distribution_and_differ_between_simulations(tmp_path):
    truth = {**SHARED, "f": {"uniform": [0.02, 0.06]}, "k": {"log_uniform": [0.04, 0.08]}}
    found = simulated(tmp_path, truth, count=400).scalars()
    assert set(found) == {"f", "k"}
    feed, kill = found["f"], found["k"].log()
    for values, lower, upper in ((feed, 0.02, 0.06), (kill, math.log(0.04), math.log(0.08))):
        assert float(values.min()) >= lower
        assert float(values.max()) < upper
        assert abs(float(values.mean()) - (lower + upper) / 2) < 0.06 * (upper - lower)
        assert abs(float(values.std()) - (upper - lower) / 12**0.5) < 0.06 * (upper - lower)
    assert abs(float(torch.corrcoef(torch.stack([feed, kill]))[0, 1])) < 0.15


def test_grids_are_combined(tmp_path):
    truth = {**SHARED, "f": {"grid": [0.03, 0.04]}, "k": {"grid": [0.05, 0.06, 0.065]}}
    found = scalars_of(simulated(tmp_path, truth, count=7))
    assert found == {
        "f": [0.03, 0.03, 0.03, 0.04, 0.04, 0.04, 0.03],
        "k": [0.05, 0.06, 0.065, 0.05, 0.06, 0.065, 0.05],
    }


def test_lists_that_belong_together_go_in_parallel(tmp_path):
    truth = {**SHARED, "f": {"each": [0.03, 0.04, 0.05]}, "k": {"each": [0.05, 0.06, 0.065]}}
    assert scalars_of(simulated(tmp_path, truth, count=4)) == {
        "f": [0.03, 0.04, 0.05, 0.03],
        "k": [0.05, 0.06, 0.065, 0.05],
    }


def test_a_latin_hypercube_has_one_simulation_in_each_layer(tmp_path):
    both = {"latin_hypercube": [0.02, 0.06]}
    found = simulated(tmp_path, {**SHARED, "f": both, "k": both}, count=20).scalars()
    layers = {name: ((values - 0.02) / 0.04 * 20).floor().long() for name, values in found.items()}
    assert all(sorted(values.tolist()) == list(range(20)) for values in layers.values())
    assert layers["f"].tolist() != layers["k"].tolist()


def test_draws_depend_on_seed_and_index_alone(tmp_path):
    truth = {**SHARED, "k": 0.06, "f": {"uniform": [0.02, 0.06]}}
    six, three = (simulated(tmp_path, truth, count=count).scalars()["f"] for count in (6, 3))
    assert torch.equal(six[:3], three)
    assert not torch.equal(three, simulated(tmp_path, truth, count=3, seed=1).scalars()["f"])


def test_each_simulation_is_that_of_its_own_parameters(tmp_path):
    drawn = simulated(tmp_path, {**SHARED, "k": 0.06, "f": {"grid": [0.02, 0.05]}}, count=2)
    for index, feed in enumerate((0.02, 0.05)):
        alone = simulated(tmp_path, {**SHARED, "k": 0.06, "f": feed}, count=2)
        torch.testing.assert_close(drawn.trajectories[index].dynamic, alone.trajectories[index].dynamic)
    assert set(drawn.truth) == {"Du", "Dv", "k"}
    assert drawn.trajectories[1].scalars == {"f": 0.05}


def test_draws_with_other_needs_of_internal_steps_do_not_depend_on_what_was_simulated_before(tmp_path):
    data = {"kind": "simulate", "resolution": {"x": 32}, "dt": 0.01, "num_simulations": 3, "num_frames": 3}
    data["truth"] = {"kappa": {"grid": [0.01, 1.0, 0.02]}}
    source = assembler_of(tmp_path, data).source()
    alone = source.load(2).dynamic
    for index in (0, 1):
        assert bool(source.load(index).dynamic.isfinite().all())
    assert torch.equal(source.load(2).dynamic, alone)


@pytest.mark.parametrize(
    ("truth", "key", "message"),
    [
        (
            {"uniform": [0.1, 0.2], "grid": [0.1]},
            "data.truth.kappa",
            "must have exactly one of uniform, log_uniform, grid, each and latin_hypercube, not uniform and grid",
        ),
        (
            {"uniform": [0.2, 0.1]},
            "data.truth.kappa.uniform",
            "the lower bound must be below the upper one, not 0.2 and 0.1",
        ),
        ({"log_uniform": [0.0, 0.1]}, "data.truth.kappa.log_uniform", "must be > 0, not 0.0"),
        (
            {"grid": [0.1, -0.1]},
            "data.truth.kappa",
            "kappa = -0.1 is outside of its open bounds (0, inf): choose a value between them, or set other bounds",
        ),
    ],
)
def test_mistakes_in_draws(tmp_path, truth, key, message):
    data = {"kind": "simulate", "resolution": {"x": 8}, "dt": 0.01, "num_simulations": 2, "truth": {"kappa": truth}}
    with pytest.raises(HycoError) as found:
        manager_of(tmp_path, data)
    (problem,) = found.value.problems
    assert (problem.key, problem.message) == (key, message)


def test_the_well_keeps_what_was_drawn(tmp_path):
    from hyco_engine.simulating import write_simulations

    data = {"kind": "simulate", "resolution": {"x": 8}, "dt": 0.1, "num_simulations": 4, "num_frames": 3}
    assembler = assembler_of(tmp_path, {**data, "truth": {"kappa": {"uniform": [0.01, 0.1]}}})
    expected = scalars_of(assembler.task().simulations())
    write_simulations(assembler, tmp_path / "well", "well")
    assert scalars_of(manager_of(tmp_path, {"kind": "well", "path": str(tmp_path / "well")})) == expected
