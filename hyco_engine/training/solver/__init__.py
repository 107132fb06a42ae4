"""Solvers: how a problem's unknowns are improved step by step.

A solver holds settings alone. `init(problem, before)` gives the state that a phase begins with, `step(problem, state)`
advances it in place, and the state is all that training goes on from. `Minibatch`, `LBFGS` and `GaussNewton` step;
`Rollback`, `Staged` and `MultiStart` wrap another solver.
"""
