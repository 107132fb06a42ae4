"""The JSON schema says what the loader says."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import attrs
import pytest
from spec_kinds import GOOD, make_registry

from hyco_engine.hooks.records import Record
from hyco_engine.spec.choices import StrategyChoice
from hyco_engine.spec.classes import Spec
from hyco_engine.spec.dumping import dump_spec
from hyco_engine.spec.loading import spec_from_dict
from hyco_engine.spec.options import option, options
from hyco_engine.spec.schema import json_schema

SCHEMA = json_schema(make_registry())


def keys(definition: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["$defs"][definition]["properties"]
    return found


def variants(definition: str) -> dict[str, dict[str, Any]]:
    return {one["properties"]["kind"]["const"]: one for one in SCHEMA["$defs"][definition]["anyOf"]}


def test_it_is_strict_json() -> None:
    assert json.loads(json.dumps(SCHEMA, allow_nan=False)) == SCHEMA


def test_tables_are_closed_and_every_key_is_explained() -> None:
    assert list(SCHEMA["properties"]) == [field.name for field in attrs.fields(Spec)]
    assert SCHEMA["required"] == ["data"]
    tables = [SCHEMA, *SCHEMA["$defs"].values()]
    tables += [variant for table in tables for variant in table.get("anyOf", ())]
    for table in tables:
        if "properties" in table:
            assert table["additionalProperties"] is False
            assert all(key.get("description") for name, key in table["properties"].items() if name != "kind")


def test_references_lead_somewhere() -> None:
    text = json.dumps(SCHEMA)
    used = {part.partition('"')[0] for part in text.split("#/$defs/")[1:]}
    assert used == set(SCHEMA["$defs"])


def test_types_and_bounds() -> None:
    unet = variants("SyntheticChoice")["unet"]["properties"]
    assert unet["levels"] == {
        "description": "resolution levels",
        "type": "integer",
        "minimum": 1,
        "maximum": 6,
        "default": 3,
    }
    assert unet["dilations"]["items"] == {"type": "integer", "minimum": 1}
    assert unet["activation"]["enum"] == ["silu", "gelu"]
    assert unet["dropout"]["exclusiveMaximum"] == 1.0
    assert unet["heads"]["additionalProperties"] == {"$ref": "#/$defs/Optimiser"}
    betas = keys("Optimiser")["betas"]
    assert (betas["minItems"], betas["items"], betas["prefixItems"][0]["minimum"]) == (2, False, 0.0)
    assert keys("TermSetting")["scale"]["anyOf"] == [{"type": "number", "exclusiveMinimum": 0.0}, {"enum": ["data"]}]
    assert variants("SourceChoice")["arrays"]["properties"]["dt"]["description"] == "time between frames [s]"
    assert keys("PathsSpec")["cache"] == {
        "description": "folder of the caches of tensors and generated samples",
        "type": "string",
        "default": "cache",
    }


def test_kinds() -> None:
    assert set(variants("PhysicalChoice")) == {"burgers", "heat"}
    assert set(variants("SyntheticChoice")) == {"unet"}
    assert set(variants("CacheChoice")) == {"auto", "memory"}
    assert variants("SourceChoice")["arrays"]["required"] == ["kind", "path"]
    assert variants("StrategyChoice")["trust"]["required"] == []
    assert set(SCHEMA["properties"]["trackers"]["properties"]) == {"csv"}


def test_a_choice_may_hold_itself() -> None:
    @options
    class Wrapping:
        inner: StrategyChoice = option(attrs.Factory(lambda: StrategyChoice(kind="trust")), help="what is wrapped")

    registry = make_registry()
    record = Record(kind="wrapping", summary="w", options=Wrapping, factory=lambda options, context: None)
    attrs.resolve_types(Wrapping, globals(), locals())
    registry.register(record, distribution="wrapping", version="1", hook="hyco_strategies")
    definition = json_schema(registry)["$defs"]["StrategyChoice"]
    assert definition["anyOf"][1]["properties"]["inner"]["$ref"] == "#/$defs/StrategyChoice"


def test_it_accepts_a_resolved_spec_and_refuses_a_wrong_one() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    text = dump_spec(spec_from_dict(tomllib.loads(GOOD + "[trackers.csv]\n"), make_registry()).spec)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    validator.validate(tomllib.loads(text))
    assert not validator.is_valid(tomllib.loads(text.replace("seed = 0", "seed = -1")))
