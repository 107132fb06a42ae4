"""One of several runs on a page that compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from hyco_engine.report.page import RunRecord

MODELS = ("synthetic", "physical", "persistence")
# the page's style sheet has a class `run0`, `run1`, ... for each colour
COLORS = ("#009e73", "#cc79a7", "#0072b2", "#e69f00", "#d55e00", "#56b4e9")


@attrs.frozen(kw_only=True)
class Side:
    """A run with its name and its look on the page; `style` is its class in the page's style sheet."""

    name: str
    style: str
    color: str
    run: RunRecord

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Any]]:
        return self.run.summary.get("parameters") or {}

    @property
    def device(self) -> str:
        """Return the device of the run, with its threads where they matter."""
        device, threads = (self.run.environment.get(name) or {} for name in ("device", "threads"))
        name, model = str(device.get("name") or ""), str(device.get("model") or "")
        text = f"{name} ({model})" if model else name
        return f"{text}, {threads['torch']} threads" if name == "cpu" and threads.get("torch") else text

    def metrics(self, split: str) -> dict[str, Mapping[str, Any]]:
        """Return the metrics by model, of the models that were measured on the split."""
        found = self.run.summary.get("metrics") or {}
        return {model: of for model in MODELS if (of := (found.get(model) or {}).get(split))}

    def errors(self, split: str) -> dict[str, Any]:
        """Return each model's nrmse, or its loss for data without fields; None where it diverged."""
        return {model: found.get("nrmse", found.get("loss")) for model, found in self.metrics(split).items()}

    def measures_rollouts(self, split: str) -> bool:
        return any("nrmse" in found for found in self.metrics(split).values())


def sides_of(names: Sequence[str], records: Sequence[RunRecord]) -> list[Side]:
    """Return the runs in order; colours repeat where there are more runs than colours."""
    return [
        Side(name=name, style=f"run{k % len(COLORS)}", color=COLORS[k % len(COLORS)], run=record)
        for k, (name, record) in enumerate(zip(names, records, strict=True))
    ]
