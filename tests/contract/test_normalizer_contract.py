"""The built-in normalizers keep the public contract."""

from __future__ import annotations

import math

from hyco_engine.builtin.normalizers.batch_stat import BatchStat
from hyco_engine.builtin.normalizers.grad_norm import GradNorm
from hyco_engine.builtin.normalizers.manual import Manual
from hyco_engine.builtin.normalizers.running_mean import RunningMean
from hyco_engine.builtin.normalizers.sqrt_dim import SqrtDim
from hyco_engine.builtin.normalizers.uncertainty import Uncertainty
from hyco_engine.interfaces import LossNormalizer, TermSpec
from hyco_engine.testing.normalizers import NormalizerContract


class TestManual(NormalizerContract):
    accepts_negative = True
    settling_steps = 1

    def make(self) -> LossNormalizer:
        return Manual()

    def size(self, spec: TermSpec, loss: float, gradient: float) -> float:
        return spec.scale or 1.0


class TestRunningMean(NormalizerContract):
    def make(self) -> LossNormalizer:
        return RunningMean()


class TestSqrtDim(NormalizerContract):
    def make(self) -> LossNormalizer:
        return SqrtDim()

    def size(self, spec: TermSpec, loss: float, gradient: float) -> float:
        return loss / math.sqrt(spec.n_elements)


class TestUnnormalisedSqrtDim(TestSqrtDim):
    def make(self) -> LossNormalizer:
        return SqrtDim(renormalise=False)


class TestBatchStat(NormalizerContract):
    settling_steps = 1

    def make(self) -> LossNormalizer:
        return BatchStat(statistic="mean")


class TestUncertainty(NormalizerContract):
    unit_tolerance = 1e-3
    fixed_point_tolerance = 0.01

    def make(self) -> LossNormalizer:
        return Uncertainty()

    def size(self, spec: TermSpec, loss: float, gradient: float) -> float:
        return loss / (1.0 if spec.kind == "laplace" else 0.5)


class TestGradNorm(NormalizerContract):
    def make(self) -> LossNormalizer:
        return GradNorm(every=5)

    def size(self, spec: TermSpec, loss: float, gradient: float) -> float:
        return gradient


class TestSkippedSteps(NormalizerContract):
    nonfinite = "skip_step"

    def make(self) -> LossNormalizer:
        return RunningMean(nonfinite="skip_step")


class TestSkippedTerms(TestUncertainty):
    nonfinite = "skip_term"

    def make(self) -> LossNormalizer:
        return Uncertainty(nonfinite="skip_term")
