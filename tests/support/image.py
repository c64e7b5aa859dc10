"""What the Dockerfile says, for those who check what is built on it."""

from __future__ import annotations

from tools import ROOT

DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines()) if name
    ]


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    return every[max(index for index, (name, _) in enumerate(every) if name == "FROM") :]


def only(name: str) -> str:
    (value,) = [value for found, value in last_stage() if found == name]
    return value


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for name, value in last_stage() if name == "ENV" for pair in value.split())


def settings() -> dict[str, str]:
    return {name: value for name, value in environment().items() if name.startswith("GATEWAY_")}
