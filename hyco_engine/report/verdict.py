"""The verdict on a run: short sentences from its summary alone, the same in the terminal, in JSON and in the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hyco_engine.report.numbers import is_number, percent, significant

SHOWN = {"physical": "the physics", "synthetic": "the surrogate"}
NOTHING = "“nothing changes”"
GOOD = 0.1
"""Share of persistence's error; a model that has learned the dynamics stays below it."""
HALF = 0.5
"""Share of persistence's error below which a model is useful, not only better than nothing."""
FAR = 5.0
"""Number of standard errors between estimate and truth from which on noise does not explain the difference."""
FOUND = 0.1
"""Relative error up to which a parameter counts as found."""
VAGUE = 0.5
"""Standard error, relative to the value, from which on the data do not determine a parameter."""
EXPLAINED = 3.0
"""Residual, relative to the noise, up to which a physics explains the data."""
LOST = 0.3
"""Residual, relative to the spread, from which on a search may have ended in a minimum far from the lowest one."""
LEAST_NOISE = 0.01
"""Noise, relative to the spread, below which the differences between two exact solvers are larger."""
FITS = 1.5
"""Factor between a model's error and the noise of the data up to which noise is all that is left."""
RISE = 1.02
"""Growth of a held-out error that counts as harm."""
CORRELATED = 0.8
"""Correlation below which a prediction has left the data; `correlation_time` counts up to there."""


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """Return what a run found, each as one sentence; what is wrong with the run, a parameter or a model comes first.

    The result depends on `status`, `cycles`, `data.dt`, `noise`, `parameters`, `physics_test`, `metrics`,
    `cooperation`, `correction`, `chaos` and `ensemble`, each of which may be missing.
    """
    metrics, test = summary.get("metrics") or {}, summary.get("physics_test") or {}
    wrong, uncorrected = test.get("explained") is False, summary.get("correction") is None
    found = [
        *_ending(summary),
        *_trust(summary.get("parameters") or {}),
        *_parameters(summary.get("parameters") or {}),
        *(_missing(test, uncorrected) if wrong else _unexplained(metrics, summary.get("noise") or {})),
        *_harm(metrics, summary.get("cooperation") or (), _level(summary.get("noise") or {})),
        *_models(metrics, _dt(summary), summary.get("noise") or {}),
        *_bands(summary.get("ensemble") or {}),
        *(correlation(summary) if summary.get("chaos") or _falls(metrics) is not None else ()),
    ]
    return found or ["This run trained and measured no model."]


def tested_split(metrics: Mapping[str, Any]) -> str:
    """Return the split whose results are reported: test where it was measured, else val."""
    return "test" if any((found or {}).get("test") for found in metrics.values()) else "val"


def against_persistence(metrics: Mapping[str, Any], model: str, split: str) -> float | None:
    """Return a model's error over that of "nothing changes"; None where one of them is not known.

    The error is vrmse, which stays the same if a constant is added to a field, or nrmse where the truth has no spread.
    """
    found, floors = (_measured(metrics, name, split) for name in (model, "persistence"))
    measure = _measure(floors)
    error, floor = found.get(measure), floors.get(measure)
    return error / floor if is_number(error) and is_number(floor) and floor > 0 else None


def _measure(metrics: Mapping[str, Any]) -> str:
    """Return the name of the error that compares models."""
    return "vrmse" if is_number(metrics.get("vrmse")) else "nrmse"


def lead_below(metrics: Mapping[str, Any], model: str, split: str, share: float = 1.0) -> tuple[int, int] | None:
    """Return up to which lead time a model's error stays below `share` of persistence's, and the longest lead time.

    Both count frames from the start of a rollout. None stands for models whose errors are not known by lead time.
    """
    below = _below(metrics, model, split, share)
    if not below:
        return None
    reached = 0
    for lead, is_below in below:
        if not is_below:
            break
        reached = lead
    return reached, below[-1][0]


def _below(metrics: Mapping[str, Any], model: str, split: str, share: float = 1.0) -> list[tuple[int, bool]]:
    """Return, by lead time, whether a model's error is below `share` of persistence's; empty where it is not known."""
    own, floor = (_measured(metrics, name, split) for name in (model, "persistence"))
    measure = "vrmse" if all(map(is_number, floor.get("vrmse_by_step") or (None,))) else "nrmse"
    errors, floors = own.get(f"{measure}_by_step") or (), floor.get(f"{measure}_by_step") or ()
    leads = own.get("lead_steps") or range(1, len(errors) + 1)
    if len(errors) != len(floors) or len(errors) != len(leads) or not all(map(is_number, floors)):
        return []
    # the error of a diverged rollout is infinite, or null in JSON
    shares = zip(leads, errors, floors, strict=True)
    return [(lead, is_number(error) and error < share * level) for lead, error, level in shares]


def found_text(entry: Mapping[str, Any]) -> str:
    """Return text such as `0.0200 ± 0.0001 m^2/s`, or a field's range and mean; empty where it is not known.

    The error is that of `total_error`.
    """
    value = entry.get("final")
    unit = entry.get("unit") or "1"
    suffix = "" if unit == "1" else f" {unit}"
    if isinstance(value, Mapping):
        low, mean, high = (significant(value.get(key), 4) for key in ("min", "mean", "max"))
        kind = "a function of time" if entry.get("along") else "a field"
        kind = f"one value for each {entry['by']}" if entry.get("by") else kind
        return f"{kind}, {low} to {high}, mean {mean}{suffix}"
    error = total_error(entry)
    if not is_number(value):
        return ""
    return significant(value, 4) + (f" ± {significant(error, 2)}" if is_number(error) else "") + suffix


def total_error(entry: Mapping[str, Any]) -> float | None:
    """Return the total error of a parameter's budget, or its standard error where there is no budget."""
    total = (entry.get("budget") or {}).get("total")
    error = total if is_number(total) else entry.get("standard_error")
    return error if is_number(error) else None


def budgets(parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the budgets of all learned numbers by name, `name[group]` where simulations differ."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, entry in parameters.items():
        own = {f"{name}[{each.get('group')}]": each.get("budget") for each in entry.get("own") or ()}
        found |= {key: budget for key, budget in {name: entry.get("budget"), **own}.items() if budget}
    return found


def correlation(summary: Mapping[str, Any]) -> list[str]:
    """Return sentences on chaos, and on how long the surrogate stays correlated with the data, as far as it is known.

    They depend on `data.dt`, `metrics` and `chaos`.
    """
    metrics, dt, chaos = summary.get("metrics") or {}, _dt(summary), summary.get("chaos") or {}
    split = tested_split(metrics)
    own, falls = _measured(metrics, "synthetic", split), _falls(metrics)
    found, time, spread = [], chaos.get("lyapunov_time"), chaos.get("standard_error")
    if is_number(time) and is_number(spread):
        off = significant(spread * time**2, 2)
        found.append(f"The physics is chaotic, with a Lyapunov time of {significant(time, 3)} ± {off}.")
    if not own.get("lead_steps") or "correlation_time" not in own:
        return found
    which = f"The correlation of the surrogate with the {split} data"
    if falls == own["lead_steps"][0]:
        return [*found, f"{which} is below {CORRELATED} from the first step on."]
    steps = own["lead_steps"][-1] if falls is None else max(s for s in own["lead_steps"] if s < falls)
    times = f", {significant(steps * dt / time, 2)} Lyapunov times" if is_number(time) and is_number(dt) else ""
    end = ", the end of the rollouts" if falls is None else ""
    return [*found, f"{which} stays at {CORRELATED} or above up to {_lead(steps, dt)}{end}{times}."]


# --- the run as a whole -----------------------------------------------------------------------------------------------


def _ending(summary: Mapping[str, Any]) -> Iterator[str]:
    status = summary.get("status") or "unfinished"
    if status == "completed":
        return
    cycles = summary.get("cycles") or 0
    told = f"This run {'is' if status == 'unfinished' else 'was' if status == 'interrupted' else 'has'} {status}"
    whole = f"{cycles} whole {'cycle' if cycles == 1 else 'cycles'}"
    yield f"{told} after {whole}; the results are those that it had reached by then."


# --- parameters -------------------------------------------------------------------------------------------------------


def _trust(parameters: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Tell of intervals that cannot be trusted, and why; what lies at a bound is told of elsewhere."""
    reasons: dict[str, list[str]] = {}
    for name, budget in budgets(parameters).items():
        if budget.get("trusted") is False and not (parameters.get(name) or {}).get("at_bound"):
            reasons.setdefault(str(budget.get("verdict")), []).append(name)
    for reason, names in reasons.items():
        which = f"interval of {names[0]} is" if len(names) == 1 else f"intervals of {_several(names)} are"
        yield f"The {which} not to be trusted: {reason}."


def _several(names: list[str]) -> str:
    return _listed(names) if len(names) <= 4 else f"{len(names)} parameters"


def _missing(test: Mapping[str, Any], advises: bool) -> Iterator[str]:
    """Tell what the missing terms of a physics resemble; with `advises`, tell also how to learn them."""
    best: dict[str, Mapping[str, Any]] = {}
    for entry in test.get("missing") or ():
        best.setdefault(str(entry.get("field")), entry)
    told = [
        f"{entry['term']} (correlation {significant(entry['correlation'], 2)}) in the rate of {field}"
        for field, entry in list(best.items())[:3]
        if is_number(entry.get("correlation"))
    ]
    if told:
        remedy = "; a surrogate of kind “corrected” learns it beside the physics" if advises else ""
        yield f"What the physics lacks resembles {_listed(told)}{remedy}."


def _parameters(parameters: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    learned = {name: entry for name, entry in parameters.items() if entry.get("moved")}
    if parameters and not learned:
        starts = "its start" if len(parameters) == 1 else "their starts"
        yield f"{_listed(list(parameters))} did not move from {starts}."
        return
    pressed = [name for name, entry in learned.items() if entry.get("at_bound")]
    for name in pressed:
        side, value = learned[name]["at_bound"], found_text(learned[name])
        yield f"{name} lies at its {side} bound, and the fit would go on beyond it: {value}."
    learned = {name: entry for name, entry in learned.items() if name not in pressed}
    vague = [name for name, entry in learned.items() if _vague(entry)]
    for name in vague:
        yield f"{name} is uncertain: {found_text(learned[name])}{_off(learned[name])}."
    clear = {name: entry for name, entry in learned.items() if name not in vague}
    known = {name: e["relative_error"] for name, e in clear.items() if is_number(e.get("relative_error"))}
    wrong = [name for name, error in known.items() if error > FOUND]
    for name in wrong:
        yield f"{name} was not found: {found_text(clear[name])}{_off(clear[name])}{_beyond(clear[name])}."
    right = {name: error for name, error in known.items() if name not in wrong}
    if right:
        yield _right(right, clear, alone=len(right) == len(learned))
    elif clear and not known:
        found = [f"{name} = {text}" for name, entry in list(clear.items())[:3] if (text := found_text(entry))]
        if found:
            yield f"Found: {', '.join(found)}{', ...' if len(clear) > 3 else ''}."


def _right(errors: Mapping[str, float], entries: Mapping[str, Mapping[str, Any]], *, alone: bool) -> str:
    worst = max(errors, key=lambda name: errors[name])
    off = percent(errors[worst])
    if len(errors) == 1:
        return f"{worst} was found to within {off} of its true value{_beyond(entries[worst])}."
    many = ("Both" if len(errors) == 2 else f"All {len(errors)}") + " parameters" if alone else _listed(list(errors))
    return f"{many} were found to within {off} of their true values ({worst} is furthest off)."


def _vague(entry: Mapping[str, Any]) -> bool:
    value, error = entry.get("final"), entry.get("standard_error")
    return is_number(value) and is_number(error) and error > VAGUE * abs(value)


def _off(entry: Mapping[str, Any]) -> str:
    error = entry.get("relative_error")
    return f", {percent(error)} off its true value" if is_number(error) else ""


def _beyond(entry: Mapping[str, Any]) -> str:
    value, truth, error = (entry.get(key) for key in ("final", "truth", "standard_error"))
    if not (is_number(value) and is_number(truth) and is_number(error) and error > 0):
        return ""
    distance = abs(value - truth) / error
    if distance <= FAR:
        return ""
    return f", which is {significant(distance, 2)} standard errors: more than noise explains"


# --- models -----------------------------------------------------------------------------------------------------------


def _unexplained(metrics: Mapping[str, Any], noise: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Tell of a physics whose residual is far above the noise, both over whole rollouts and over their first halves.

    Over whole rollouts alone, a chaotic physics that is right would be far above it too.
    """
    split = tested_split(metrics)
    own = _measured(metrics, "physical", split)
    told = _level(noise)
    whole, by_step = own.get("vrmse"), own.get("vrmse_by_step")
    if told is None or not by_step or not is_number(whole):
        return
    level = max(LEAST_NOISE, told)
    first = by_step[: (len(by_step) + 1) // 2]
    early = math.prod(value ** (1 / len(first)) for value in first) if all(map(is_number, first)) else whole
    if min(whole, early) > EXPLAINED * level:
        size = f"{significant(whole / told, 2)} times the noise" if told == level else f"{percent(whole)} of the spread"
        yield f"The physics does not explain the {split} data: its residual is {size}."
        if min(whole, early) > LOST:
            yield (
                "A wrong physics leaves so much, but so does a right one if the search ended in another minimum: "
                "give the parameters bounds, and let training.physical.starts = 8 look for others."
            )


def _harm(
    metrics: Mapping[str, Any], cooperation: Sequence[Mapping[str, Any]], noise: float | None = None
) -> Iterator[str]:
    """Tell of held-out errors that rose after a model was first taught.

    With `noise` in the data, the errors of the cooperation are without it, and those of metrics are not.
    """
    for model in SHOWN:
        taught = [e for e in cooperation if str(e.get("direction")).endswith(f"->{model}") and e.get("n_generated")]
        own, before = _measured(metrics, model, "val"), taught[0].get("e_pupil") if taught else None
        # candidates have models of their own, and these entries belong to all of them
        if any("arm" in entry for entry in taught) or not is_number(before) or "nrmse" not in own:
            continue
        kept = [entry for entry in taught if entry.get("accepted")]
        if noise and not kept:
            continue  # what was undone did no harm
        after = kept[-1].get("e_after") if noise else own.get(_measure(own))
        if not is_number(after) or after > RISE * before:
            to = significant(after, 2) if is_number(after) else "infinity"
            yield f"The held-out error of {SHOWN[model]} rose from {significant(before, 2)} to {to} after teaching."


def models_verdict(metrics: Mapping[str, Any], dt: float | None) -> list[str]:
    """Return the sentences on models alone; `dt` is the time between two frames, if it is known."""
    return list(_models(metrics, dt))


def _level(noise: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the noise, relative to the spread of a field, in the mean over the fields; None where it is not known."""
    levels = [entry["relative"] for entry in noise.values() if is_number(entry.get("relative"))]
    return sum(levels) / len(levels) if levels else None


def _models(
    metrics: Mapping[str, Any], dt: float | None, noise: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[str]:
    split = tested_split(metrics)
    good, poor, bad = [], [], []
    fits: list[str] = []
    for model, title in SHOWN.items():
        own = _measured(metrics, model, split)
        if "nrmse" not in own:
            continue
        ratio, reach = against_persistence(metrics, model, split), lead_below(metrics, model, split)
        level = _level(noise or {})
        if level is not None and _fits(own, noise or {}) and ratio is not None and ratio < 1:
            fits.append(f"{title} predicts the {split} data to within their noise of {percent(level)}")
            continue
        if reach is not None and 0 < reach[0] < reach[1]:
            useful, _ = lead_below(metrics, model, split, HALF) or (0, 0)
            half = f"; up to {_lead(useful, dt)} it is below half of that" if useful else ""
            passes = f"from there on its error passes that of {NOTHING} on {split} data"
            bad.append(f"{title} is of no use beyond {_lead(reach[0], dt)}: {passes}{half}")
        elif reach is not None and reach[0] == 0 and ratio is not None and ratio < 1:
            first = next((lead for lead, is_below in _below(metrics, model, split) if is_below), reach[1])
            whole = f"over whole rollouts it has {percent(ratio)} of its error"
            bad.append(f"{title} errs more than {NOTHING} before {_lead(first, dt)} on {split} data; {whole}")
        elif ratio is None:
            bad.append(f"{title} diverges on {split} data")
        elif ratio >= 1:
            times = f"{significant(ratio, 2)} times as much as {NOTHING}"
            bad.append(f"{title} has learned nothing of use: it errs {times} on {split} data")
        elif ratio > HALF:
            poor.append(f"{title} does little better than {NOTHING}: {percent(ratio)} of its error on {split} data")
        elif ratio > GOOD:
            poor.append(f"{title} has {percent(ratio)} of the error of {NOTHING} on {split} data")
        else:
            good.append(f"{title} errs {significant(1 / ratio, 2)} times less than {NOTHING}")
    if len(good) == 2:
        good[1] = good[1].removesuffix(f" than {NOTHING}")
    told = [f"on {split} data {', '.join(good)}"] if good else []
    yield from (f"{part[0].upper()}{part[1:]}." for part in (*bad, *poor, *fits, *told))


def _fits(own: Mapping[str, Any], noise: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return True if an error is about as large as the noise: in units of the fields, or else of their spreads.

    The spread of training data, to which noise is relative, may be much larger than that of later frames.
    """
    relative, levels = _level(noise), [entry["level"] for entry in noise.values() if is_number(entry.get("level"))]
    error, level = own.get("vrmse"), relative
    if is_number(own.get("rmse")) and levels and len(levels) == len(noise):
        # both are means over the fields
        error, level = own.get("rmse"), math.fsum(levels) / len(levels)
    if relative is None or relative <= LEAST_NOISE or not level or not is_number(error):
        return False
    return 1 / FITS < error / level < FITS


def _bands(ensemble: Mapping[str, Any]) -> Iterator[str]:
    """Tell how much of the test data lies in the bands of an ensemble."""
    level, share = ((ensemble.get(key) or {}).get(name) for key, name in (("bands", "level"), ("coverage", "share")))
    if is_number(level) and is_number(share):
        yield f"The {percent(level)} bands of the surrogate hold {percent(share)} of the test data."


def _falls(metrics: Mapping[str, Any]) -> int | None:
    """Return the first lead time at which the surrogate is not correlated with the data; None if there is none."""
    found: int | None = _measured(metrics, "synthetic", tested_split(metrics)).get("correlation_time")
    return found


def _dt(summary: Mapping[str, Any]) -> float | None:
    """Return the time between two frames of the data, if it is known."""
    dt: float | None = (summary.get("data") or {}).get("dt")
    return dt


def _measured(metrics: Mapping[str, Any], model: str, split: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (metrics.get(model) or {}).get(split) or {}
    return found


def _lead(steps: int, dt: float | None) -> str:
    """Return a lead time in units of time, if the time between two frames is known."""
    if is_number(dt):
        return f"t = {significant(steps * dt, 3)}"
    return f"{steps} {'step' if steps == 1 else 'steps'}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
