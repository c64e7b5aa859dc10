"""What `kubectl kustomize` would print, as far as deploy/kubernetes needs it.

It knows `resources`, `namespace`, `images`, `configMapGenerator` (create and replace) and `patches` whose values are no
lists, and refuses everything else. Names of generated ConfigMaps stay without their hash. A test holds it against the
real one where that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools import documents, parsed

_CLUSTER_WIDE = {"Namespace"}


def rendered(directory: Path) -> list[dict[str, Any]]:
    """Every object of a kustomization. AssertionError for what is not known here."""
    wanted = parsed(directory / "kustomization.yaml")
    steps: dict[str, Callable[[list[dict[str, Any]], Any, Path], None]] = {
        "resources": _resources,
        "configMapGenerator": _config_maps,
        "patches": _patches,
        "images": _images,
        "namespace": _namespace,
    }
    assert wanted.pop("apiVersion") == "kustomize.config.k8s.io/v1beta1"
    assert wanted.pop("kind") == "Kustomization"
    assert wanted.keys() <= steps.keys(), directory
    objects: list[dict[str, Any]] = []
    for name, step in steps.items():
        if name in wanted:
            step(objects, wanted[name], directory)
    return objects


def only(objects: list[dict[str, Any]], kind: str, name: str = "pixxel-gateway") -> Any:
    """The one object of a kind and name."""
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def _resources(objects: list[dict[str, Any]], wanted: Any, directory: Path) -> None:
    for name in wanted:
        path = directory / name
        objects += rendered(path) if path.is_dir() else documents(path)


def _config_maps(objects: list[dict[str, Any]], wanted: Any, directory: Path) -> None:
    for generator in wanted:
        behavior = generator.get("behavior", "create")
        assert generator.keys() <= {"name", "behavior", "files"}
        assert behavior in {"create", "replace"}
        data = {name: (directory / name).read_text(encoding="utf-8") for name in generator["files"]}
        if behavior == "replace":
            only(objects, "ConfigMap", generator["name"])["data"] = data
        else:
            objects.append(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
            )


def _patches(objects: list[dict[str, Any]], wanted: Any, directory: Path) -> None:
    for patch in wanted:
        assert patch.keys() == {"path"}
        change = parsed(directory / patch["path"])
        _merge(only(objects, change["kind"], change["metadata"]["name"]), change)


def _merge(into: dict[str, Any], change: dict[str, Any]) -> None:
    for key, value in change.items():
        assert not isinstance(value, list), f"{key}: lists are merged in ways that are not known here"
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _images(objects: list[dict[str, Any]], wanted: Any, directory: Path) -> None:
    for image in wanted:
        assert image.keys() == {"name", "newName", "newTag"}
        for one in objects:
            for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"


def _namespace(objects: list[dict[str, Any]], wanted: Any, directory: Path) -> None:
    for one in objects:
        if one["kind"] not in _CLUSTER_WIDE:
            one["metadata"]["namespace"] = wanted
