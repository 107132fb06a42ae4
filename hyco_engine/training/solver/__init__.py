"""Solvers, which improve the unknowns of a problem step by step.

A solver holds settings alone. `init(problem, before)` returns the state with which a phase begins, `step(problem,
state)` advances it in place, and training needs nothing else to continue. `Minibatch`, `LBFGS` and `GaussNewton` step;
`Rollback`, `Staged` and `MultiStart` wrap another solver.
"""
