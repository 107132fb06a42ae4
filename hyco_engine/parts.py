"""The parts of a run, for programs without a spec: trainers, data, physics, strategies, caches, normalizers.

The contracts that parts keep, and the contexts that models are built with, are in `hyco_engine.interfaces`. Names are
imported when they are first used: importing this module loads neither torch nor phi.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyco_engine.augment.balance import generated_count
    from hyco_engine.augment.dataset import AugmentedDataset
    from hyco_engine.augment.recipes import RolloutRecipe
    from hyco_engine.builtin.caches.disk import Disk
    from hyco_engine.builtin.caches.memory import Memory
    from hyco_engine.builtin.caches.on_the_fly import OnTheFly
    from hyco_engine.builtin.normalizers.batch_stat import BatchStat
    from hyco_engine.builtin.normalizers.grad_norm import GradNorm
    from hyco_engine.builtin.normalizers.manual import Manual
    from hyco_engine.builtin.normalizers.running_mean import RunningMean
    from hyco_engine.builtin.normalizers.sqrt_dim import SqrtDim
    from hyco_engine.builtin.normalizers.uncertainty import Uncertainty
    from hyco_engine.builtin.strategies.count import Count
    from hyco_engine.builtin.strategies.interaction import Interaction
    from hyco_engine.builtin.strategies.starts import random_starts
    from hyco_engine.builtin.strategies.trust import Trust
    from hyco_engine.builtin.strategies.two_arms import TwoArms
    from hyco_engine.builtin.strategies.weight import Weight
    from hyco_engine.data.fields import Boundary, FieldInfo, Grid, StateLayout
    from hyco_engine.data.statistics import Statistics
    from hyco_engine.data.windows import WindowDataset
    from hyco_engine.physics import (
        Converter,
        FieldSamples,
        FieldView,
        FlowModel,
        FlowPhysics,
        Learnables,
        ParameterDeclaration,
        TorchModel,
        TorchPhysics,
        noise_field,
        smooth_noise,
        to_fields,
        to_tensor,
    )
    from hyco_engine.physics.settings import ArrayFile, ParameterSetting, Profile
    from hyco_engine.ranks.environment import runtime_here
    from hyco_engine.ranks.runtime import Runtime
    from hyco_engine.rollout import rollout_with_bands
    from hyco_engine.runs.cache_manager import CacheManager
    from hyco_engine.tasks.points import HeldOutPoints
    from hyco_engine.training.cycle import REST, Event
    from hyco_engine.training.evaluation import HeldOutRollouts, HeldOutSamples
    from hyco_engine.training.hybrid import HybridTrainer
    from hyco_engine.training.settings import TrainingSettings
    from hyco_engine.training.trainer import Trainer

_HOME = {
    "Event": "training.cycle",
    "HeldOutPoints": "tasks.points",
    "REST": "training.cycle",
    "HeldOutRollouts": "training.evaluation",
    "HeldOutSamples": "training.evaluation",
    "HybridTrainer": "training.hybrid",
    "Trainer": "training.trainer",
    "TrainingSettings": "training.settings",
    "Boundary": "data.fields",
    "FieldInfo": "data.fields",
    "Grid": "data.fields",
    "StateLayout": "data.fields",
    "Statistics": "data.statistics",
    "WindowDataset": "data.windows",
    "ArrayFile": "physics.settings",
    "Converter": "physics",
    "FieldSamples": "physics",
    "FieldView": "physics",
    "FlowModel": "physics",
    "FlowPhysics": "physics",
    "Learnables": "physics",
    "ParameterDeclaration": "physics",
    "ParameterSetting": "physics.settings",
    "Runtime": "ranks.runtime",
    "runtime_here": "ranks.environment",
    "Profile": "physics.settings",
    "TorchModel": "physics",
    "TorchPhysics": "physics",
    "noise_field": "physics",
    "smooth_noise": "physics",
    "to_fields": "physics",
    "to_tensor": "physics",
    "AugmentedDataset": "augment.dataset",
    "rollout_with_bands": "rollout",
    "CacheManager": "runs.cache_manager",
    "RolloutRecipe": "augment.recipes",
    "generated_count": "augment.balance",
    "Count": "builtin.strategies.count",
    "Interaction": "builtin.strategies.interaction",
    "Trust": "builtin.strategies.trust",
    "TwoArms": "builtin.strategies.two_arms",
    "Weight": "builtin.strategies.weight",
    "random_starts": "builtin.strategies.starts",
    "Disk": "builtin.caches.disk",
    "Memory": "builtin.caches.memory",
    "OnTheFly": "builtin.caches.on_the_fly",
    "BatchStat": "builtin.normalizers.batch_stat",
    "GradNorm": "builtin.normalizers.grad_norm",
    "Manual": "builtin.normalizers.manual",
    "RunningMean": "builtin.normalizers.running_mean",
    "SqrtDim": "builtin.normalizers.sqrt_dim",
    "Uncertainty": "builtin.normalizers.uncertainty",
}

__all__ = [
    "REST",
    "ArrayFile",
    "AugmentedDataset",
    "BatchStat",
    "Boundary",
    "CacheManager",
    "Converter",
    "Count",
    "Disk",
    "Event",
    "FieldInfo",
    "FieldSamples",
    "FieldView",
    "FlowModel",
    "FlowPhysics",
    "GradNorm",
    "Grid",
    "HeldOutPoints",
    "HeldOutRollouts",
    "HeldOutSamples",
    "HybridTrainer",
    "Interaction",
    "Learnables",
    "Manual",
    "Memory",
    "OnTheFly",
    "ParameterDeclaration",
    "ParameterSetting",
    "Profile",
    "RolloutRecipe",
    "RunningMean",
    "Runtime",
    "SqrtDim",
    "StateLayout",
    "Statistics",
    "TorchModel",
    "TorchPhysics",
    "Trainer",
    "TrainingSettings",
    "Trust",
    "TwoArms",
    "Uncertainty",
    "Weight",
    "WindowDataset",
    "generated_count",
    "noise_field",
    "random_starts",
    "rollout_with_bands",
    "runtime_here",
    "smooth_noise",
    "to_fields",
    "to_tensor",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"hyco_engine.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
