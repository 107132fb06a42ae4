"""Samples of the posterior of a run's parameters, by emcee: `sample("runs/burgers-1", walkers=32, steps=1000)`."""

from hyco_engine_posterior.sampling import sample

__all__ = ["sample"]
