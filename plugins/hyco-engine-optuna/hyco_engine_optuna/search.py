"""A search in a sweep folder: Optuna is asked for values, a member of the sweep runs with them, and Optuna is told.

SWEEP/search.json (what is searched) and SWEEP/optuna.journal (Optuna's own storage) join the files of a sweep. All
state is in these files, so a search that was killed goes on, and ends as an undisturbed one does.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hyco_engine import Registry
from hyco_engine.errors import DataError, SpecError
from hyco_engine.sweeping import (
    Member,
    Sweep,
    add_member,
    create_open,
    open_sweep,
    run_members,
    spec_text,
    start,
    threads_for,
)
from hyco_engine_optuna.space import Space, ends_of, from_data, to_data

SEARCH, JOURNAL = "search.json", "optuna.journal"


@attrs.define(kw_only=True)
class Search:
    """A search for the values in `space` with which `objective`, a key of a run's summary, is least."""

    sweep: Sweep
    space: Space
    objective: str
    seed: int

    @classmethod
    def create(
        cls,
        spec: Path,
        space: Space,
        *,
        objective: str = "metrics.synthetic.val.nrmse",
        seed: int = 0,
        overrides: Sequence[str] = (),
        out: Path | None = None,
    ) -> Search:
        """Begin a search in a new sweep folder. Raise SpecError if a key cannot have one of its values by itself."""
        registry = Registry.discover()
        for key, values in space.items():
            for value in ends_of(values):
                spec_text(spec, registry, overrides, Member(name="000", values={key: value}))
        sweep = create_open(spec, registry, overrides, list(space), out)
        content = {"space": to_data(space), "objective": objective, "seed": seed}
        partial = sweep.folder / f".{SEARCH}.tmp"
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, sweep.folder / SEARCH)
        return cls(sweep=sweep, space=space, objective=objective, seed=seed)

    @classmethod
    def open(cls, folder: Path) -> Search:
        """Return the search of a folder. Raise DataError where there is none, or where it is damaged."""
        sweep = open_sweep(folder)
        try:
            content = json.loads((folder / SEARCH).read_text(encoding="utf-8"))
            return cls(
                sweep=sweep,
                space=from_data(content["space"]),
                objective=str(content["objective"]),
                seed=int(content["seed"]),
            )
        except FileNotFoundError:
            raise DataError(f"{folder} is no search: it has no {SEARCH}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / SEARCH} is damaged: {error}") from error

    @property
    def study(self) -> optuna.Study:
        """Optuna's study, in its journal beside the sweep."""
        storage = JournalStorage(JournalFileBackend(str(self.sweep.folder / JOURNAL)))
        return optuna.create_study(storage=storage, study_name="sweep", sampler=self._sampler(0), load_if_exists=True)

    def run(
        self, trials: int, jobs: int = 1, stop: Callable[[], str | None] = lambda: None
    ) -> Iterator[tuple[Member, str, float | None]]:
        """Run until the search has `trials` trials; yield each member as it ends, with its status and its objective.

        `jobs` trials run beside one another, and the next ones are asked for when all of them have ended, so that what
        Optuna knows does not depend on which is faster. Once `stop` returns a signal, runs end with checkpoints.
        """
        study = self.study
        while stop() is None:
            open_ = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
            while len(open_) < jobs and len(study.get_trials(deepcopy=False)) < trials:
                open_.append(self._ask(study))
            if not open_:
                return
            yield from self._run(study, open_, jobs, stop)

    def _ask(self, study: optuna.Study) -> FrozenTrial:
        # each trial has random numbers of its own, whatever process asks for it
        study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
        number = study.ask(dict(self.space)).number
        return study.get_trials(deepcopy=False)[number]

    def _run(
        self, study: optuna.Study, trials: Sequence[FrozenTrial], jobs: int, stop: Callable[[], str | None]
    ) -> Iterator[tuple[Member, str, float | None]]:
        members = []
        for trial in trials:
            known = {member.name: member for member in self.sweep.members}
            member = known.get(name := f"{trial.number:03}")
            if member is None:
                try:
                    self.sweep = add_member(self.sweep, Registry.discover(), trial.number, trial.params)
                except SpecError as error:
                    # single values were right, and these do not go together
                    refused = Member(name=name, values=trial.params)
                    yield self._tell(study, refused, f"refused: {error}")
                    continue
                member = self.sweep.members[-1]
            members.append(member)
        for member in members:
            # one that had ended when the search was killed is only told
            if self.sweep.status(member) == "completed":
                yield self._tell(study, member, "completed")
        left = [member for member in members if self.sweep.status(member) != "completed"]
        threads = threads_for(jobs)
        for member, status in run_members(
            self.sweep, left, jobs, lambda member: start(self.sweep, member, (), threads), stop
        ):
            yield (member, status, None) if status == "interrupted" else self._tell(study, member, status)

    def _tell(self, study: optuna.Study, member: Member, status: str) -> tuple[Member, str, float | None]:
        value = self._value(member) if status == "completed" else None
        if value is None:
            study.tell(int(member.name), state=TrialState.FAIL)
        else:
            study.tell(int(member.name), value)
        return member, status, value

    def _value(self, member: Member) -> float | None:
        """Return the objective of a completed run; None unless it is a finite number."""
        found: Any = json.loads((self.sweep.run_folder(member) / "summary.json").read_text(encoding="utf-8"))
        for key in self.objective.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        number = isinstance(found, float | int) and not isinstance(found, bool)
        return float(found) if number and math.isfinite(found) else None

    def _sampler(self, number: int) -> BaseSampler:
        return TPESampler(seed=self.seed + number)
