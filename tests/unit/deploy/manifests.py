"""Kubernetes manifests in tests: the schemas that they must fit, and the environment of their containers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate

Manifest = Mapping[str, Any]
KUBERNETES: Final = ("1.30", "1.37")
"""The oldest and the newest version that the chart supports."""
_OPERATORS: Final = Path(__file__).parent / "schemas"
_GROUPS: Final = ("rabbitmq.com/", "keda.sh/", "monitoring.coreos.com/", "gateway.networking.k8s.io/")


@cache
def _operator_schema(kind: str) -> jsonschema.Draft202012Validator:
    """Schema of an operator's resource, made of its definition: structure, types and limits, unknown fields refused."""
    return jsonschema.Draft202012Validator(json.loads((_OPERATORS / f"{kind}.json").read_text()))


def check(manifest: Manifest) -> None:
    """Raise jsonschema.ValidationError or kubernetes_validate.ValidationError unless the manifest is valid."""
    if manifest["apiVersion"].startswith(_GROUPS):
        _operator_schema(manifest["kind"]).validate(manifest)
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(manifest, version, strict=True)


def pods(manifests: Sequence[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Return the component and the pod spec of everything that makes pods."""
    for each in manifests:
        component = each["metadata"].get("labels", {}).get("app.kubernetes.io/component", "")
        match each["kind"]:
            case "Deployment" | "Job":
                yield component, each["spec"]["template"]["spec"]
            case "Pod":
                yield component, each["spec"]


def environment(pod: Manifest) -> dict[str, str]:
    """Return the variables of the first container; those of Secrets are `name/key`."""
    found = {}
    for variable in pod["containers"][0]["env"]:
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        assert variable["name"] not in found, "there are two of that name"
        found[variable["name"]] = f"{secret['name']}/{secret['key']}" if secret else variable["value"]
    return found


def of_kind(manifests: Sequence[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the manifests of a kind by name."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}
