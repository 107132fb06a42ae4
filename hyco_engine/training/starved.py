"""The quick diagnosis of a starved loss term: it stands still while another one learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EPOCHS = 5
STILL = 0.01
MOVING = 0.20


class StarvedTerms:
    """Watches the losses of the terms over the first epochs of one trained model.

    A term is starved if after `EPOCHS` epochs it has changed by less than `STILL` of its loss in the first epoch, while
    another has changed by more than `MOVING`. A term whose loss was 0 has nothing left to learn.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._epochs: dict[str, int] = {}
        self._judged = False

    def epoch(self, losses: Mapping[str, float], player: str = "") -> str | None:
        """Take note of the terms' mean losses in one epoch, unweighted, in their own units.

        Returns a warning, once, or None. A term that appears later is judged after its own five epochs; `player` names
        the model in the text.
        """
        for name, loss in losses.items():
            self._first.setdefault(name, loss)
            self._epochs[name] = self._epochs.get(name, 0) + 1
        due = [name for name in losses if self._epochs[name] == EPOCHS]
        if self._judged or not due:
            return None
        changes = {n: abs(loss / self._first[n] - 1.0) for n, loss in losses.items() if self._first[n] > 0}
        fastest = max(changes, key=lambda name: changes[name], default="")
        still = [name for name in due if name in changes and changes[name] < STILL]
        if not still or changes[fastest] <= MOVING:
            return None
        self._judged = True
        return self._warning(still, fastest, losses, player)

    def state_dict(self) -> dict[str, Any]:
        """Return the losses so far, as plain values."""
        return dict(vars(self))

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> StarvedTerms:
        """Return the object of which `saved` is the state dict."""
        watch = cls()
        vars(watch).update(saved)
        return watch

    def _warning(self, still: list[str], fastest: str, losses: Mapping[str, float], player: str) -> str:
        def change(name: str) -> str:
            first, now = self._first[name], losses[name]
            return f"{name!r} by {100 * (now / first - 1):+.2g} % ({first:.4g} -> {now:.4g})"

        whose = f"the {player} model's " if player else ""
        return (
            f"after {EPOCHS} epochs {whose}loss has changed in {', '.join(map(change, still))} and in "
            f"{change(fastest)}: {', '.join(map(repr, still))} {'is' if len(still) == 1 else 'are'} not being learned. "
            "Declare its size "
            f"(loss.terms.{still[0]}.scale) and let the model predict in units of it, before weighting terms against "
            "each other; see docs/losses.md"
        )
