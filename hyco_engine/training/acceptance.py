"""The decision on held-out data alone whether a run keeps a learned correction of its physics."""

from __future__ import annotations

import copy
from typing import Any

from hyco_engine.interfaces import Correction
from hyco_engine.training.hybrid import HybridTrainer

ENOUGH = 0.8
"""A correction is accepted if its error is below this fraction of the physics' error. Corrections of what a physics
lacks took 96 to 99 % of the error; one that had learned only the noise of simulations whose later frames are held out
took a tenth, and erred on other simulations."""


def accept_correction(hybrid: HybridTrainer) -> dict[str, Any] | None:
    """Return `accepted`, `error` and `error_without`, for the best weights of the surrogate and of the run's physics.

    If the correction does not reduce the error by a fifth, the surrogate becomes that physics alone, in its best and
    last weights. Returns None if the surrogate is no correction, or nothing was held out.
    """
    synthetic, physical = (hybrid.trainers.get(player) for player in ("synthetic", "physical"))
    heldout = hybrid.heldout
    if heldout is None or physical is None or synthetic is None or not isinstance(synthetic.model, Correction):
        return None
    bare, error = hybrid.best["physical"], hybrid.best["synthetic"].error
    without, state = bare.error, bare.state
    if state is None:
        # the cycle does not measure a physics without anything to learn
        without = heldout.score(heldout.measure(physical.model))
        state = copy.deepcopy(physical.model.state_dict())
    accepted = error < ENOUGH * without
    if not accepted:
        hybrid.keep("synthetic", without, synthetic.model.without(state))
    return {"accepted": accepted, "error": error, "error_without": without}
