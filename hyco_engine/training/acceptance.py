"""Whether a learned correction of a physics is kept: held-out data alone decides."""

from __future__ import annotations

import copy
from typing import Any

from hyco_engine.interfaces import Correction
from hyco_engine.training.hybrid import HybridTrainer

ENOUGH = 0.8
"""What a physics lacks is most of its error: a correction took 96 to 99 % of it. One that had only learned the noise of
simulations whose later frames are held out took a tenth, and erred on others."""


def accept_correction(hybrid: HybridTrainer) -> dict[str, Any] | None:
    """Return `accepted`, `error` and `error_without`, of the best weights of the surrogate and of the run's physics.

    Where the correction does not take a fifth of the error, the surrogate becomes that physics alone, in its best and
    last weights. Returns None where the surrogate is no correction, or nothing was held out.
    """
    synthetic, physical = (hybrid.trainers.get(player) for player in ("synthetic", "physical"))
    heldout = hybrid.heldout
    if heldout is None or physical is None or synthetic is None or not isinstance(synthetic.model, Correction):
        return None
    bare, error = hybrid.best["physical"], hybrid.best["synthetic"].error
    without, state = bare.error, bare.state
    if state is None:
        # a physics that has nothing to learn is not measured while others train
        without = heldout.score(heldout.measure(physical.model))
        state = copy.deepcopy(physical.model.state_dict())
    accepted = error < ENOUGH * without
    if not accepted:
        hybrid.keep("synthetic", without, synthetic.model.without(state))
    return {"accepted": accepted, "error": error, "error_without": without}
