"""config/gateway.toml and its schema against the code: neither may say anything else."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.config.loading import ConfigurationError, Loaded, Settings, load
from gateway.config.names import Keys, dotted
from gateway.config.schema import schema, schema_text

jsonschema: Any = importlib.import_module("jsonschema")  # which has no types

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config" / "gateway.toml"
KEY = {"GATEWAY_UPSTREAM__API_KEY": "vendor-key"}
BAD = ("[server]\nprot = 1", "[server]\nport = 'x'", "[teams.unknown]", "[teams.'a b']", "[zzz]", "[ops]\nport = -1")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that the checkout's own config/gateway.toml is out of sight


def loaded(text: str) -> Settings:
    Path("g.toml").write_text(text, encoding="utf-8")
    return load(file="g.toml", environ=KEY).settings


def uncommented(text: str, marks: str) -> str:
    return re.sub(rf"^{marks} (?=\[|[a-z0-9_]+ = )", "", text, flags=re.MULTILINE)


def test_the_example_serves_as_it_is_once_the_key_is_in_the_environment() -> None:
    result = load(file=str(EXAMPLE), environ=KEY)
    assert result == Loaded(load(environ=KEY).settings, warnings=[], source=str(EXAMPLE))


def test_the_example_holds_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    defaults = uncommented(text, "#")
    assert loaded(defaults) == load(environ=KEY).settings
    count = len(re.findall(r"^# [a-z0-9_]+ = ", text, flags=re.MULTILINE))
    assert count > 40
    for line in re.findall(r"^# ([a-z0-9_]+ = .*)$", text, flags=re.MULTILINE):
        one = text.replace(f"# {line}", line, 1)
        assert loaded(one) == load(environ=KEY).settings, line

    def leaves(table: dict[str, Any], above: str = "") -> set[str]:
        return {
            path
            for name, inner in table.items()
            for path in (leaves(inner, f"{above}{name}.") if isinstance(inner, dict) else {above + name})
        }

    everything = leaves(tomllib.loads(uncommented(defaults, "##")))
    assert everything == {dotted(key).replace("*", "analytics") for key in Keys(Settings)}


def test_the_examples_for_keys_without_default_are_good_values() -> None:
    text = uncommented(EXAMPLE.read_text(encoding="utf-8"), "##")
    absent = (r"cannot be read", r"keep one of the two")
    with pytest.raises(ConfigurationError) as caught:
        loaded(text)
    assert [str(fault) for fault in caught.value.faults if not re.search("|".join(absent), fault.what)] == []


def test_the_schema_file_is_what_the_code_gives() -> None:
    assert (ROOT / "config" / "gateway.schema.json").read_text(encoding="utf-8") == schema_text()
    assert json.loads(schema_text()) == schema()


def test_the_schema_accepts_the_example_and_refuses_what_loading_refuses() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    judge = jsonschema.Draft202012Validator(schema())
    text = EXAMPLE.read_text(encoding="utf-8")
    for version in (text, uncommented(text, "#"), uncommented(uncommented(text, "#"), "##")):
        judge.validate(tomllib.loads(version))
    for bad in BAD:
        with pytest.raises(ConfigurationError):
            loaded(bad)
        assert not judge.is_valid(tomllib.loads(bad)), bad


def test_the_schema_hides_no_default_and_describes_every_key() -> None:
    assert "***" not in schema_text()
    assert "null" not in schema_text()
    for part in (schema(), *schema()["$defs"].values()):
        assert part["additionalProperties"] is False
        assert all("$ref" in one or one["description"] for one in part["properties"].values())
