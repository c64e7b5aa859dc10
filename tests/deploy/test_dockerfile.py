"""The image: its file against hadolint and against the code."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase

import pytest
from image import DOCKERFILE, environment, instructions, last_stage, only, settings
from tools import ROOT, passes, program

from gateway.cli.main import _parser
from gateway.config.loading import ConfigurationError, load


def test_the_dockerfile_passes_hadolint() -> None:
    passes(program("hadolint"), "--failure-threshold", "style", "--no-color", DOCKERFILE)


def test_the_image_is_built_in_stages_on_a_base_that_can_be_chosen() -> None:
    every = instructions()
    assert every[0] == ("ARG", "BASE=python:3.13-slim")
    assert [value for name, value in every if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    (copied,) = [value.split() for name, value in last_stage() if name == "COPY"]
    assert copied[0] == "--from=build"
    assert copied[1] == copied[2]  # a venv and its bytecode know their own path
    assert not [value for name, value in last_stage() if name in ("RUN", "ADD")]
    assert environment()["PATH"].startswith(f"{copied[2]}/bin:")


def test_the_image_runs_the_gateway_itself_as_nobody_in_particular() -> None:
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", only("USER"))
    assert only("STOPSIGNAL") == "SIGTERM"
    assert json.loads(only("ENTRYPOINT")) == ["pixxel-gateway"]
    checked = json.loads(only("HEALTHCHECK").partition(" CMD ")[2])
    assert checked[:1] == ["pixxel-gateway"]
    for command in (checked[1:], json.loads(only("CMD"))):
        assert _parser().parse_args(command).run


def test_the_image_listens_where_it_says_and_lets_nobody_in_unasked() -> None:
    environ = settings() | {"GATEWAY_UPSTREAM__API_KEY": "vendor-key"}
    with pytest.raises(ConfigurationError, match="no team is configured"):
        load(environ=environ, use_file=False)
    server = load(environ=environ | {"GATEWAY_AUTH__MODE": "open"}, use_file=False).settings.server
    assert (server.host, str(server.port)) == ("0.0.0.0", only("EXPOSE"))


def test_what_the_dockerfile_copies_reaches_the_builder() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    sources = [
        source
        for name, value in instructions()
        if name == "COPY" and not value.startswith("--from")
        for source in value.split()[:-1]
    ]
    assert "pyproject.toml" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        ignored = False
        for rule in rules:
            if fnmatchcase(source, rule.removeprefix("!").strip("/")):
                ignored = not rule.startswith("!")
        assert not ignored, source
