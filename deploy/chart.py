"""The Helm chart: written documents, rendering, and the base for kustomize.

python deploy/chart.py            writes values.yaml, values.schema.json, README.md and the kustomize base
python deploy/chart.py --check    fails if one of them is out of date
python deploy/chart.py render     prints the manifests of the defaults, with all options that need no operator
python deploy/chart.py render FILE...    the same with these files of values instead
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import helm_python
import yaml
from pydantic import BaseModel, SecretStr

from calltag.core import VERSION
from calltag.core.settings import Settings
from chart_values import Section, Values

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "deploy" / "helm" / "calltag"
BASE: Final = ROOT / "deploy" / "kustomize" / "base"
RELEASE: Final = "calltag"
KUBERNETES: Final = "1.37.0"
WITHOUT_OPERATORS: Final[Mapping[str, Any]] = {
    "gateway": {"autoscaling": {"enabled": True}},
    "notifier": {"autoscaling": {"enabled": True, "sessionsPerPod": 5_000}},
    "ingress": {"enabled": True, "hosts": ["calltag.example.com"]},
    "httpRoute": {"enabled": True, "hostnames": ["calltag.example.com"], "parentRefs": [{"name": "public"}]},
    "networkPolicy": {"enabled": True},
    "dashboards": {"enabled": True},
}
"""Everything optional that works without an operator; an HTTPRoute needs only an implementation of the Gateway API."""
Tree = Mapping[str, Any]
_WIDTH: Final = 110
_GENERATED: Final = "Written by deploy/chart.py from deploy/chart_values.py: change that, and run make docs."


def rendered(values: Tree, *, is_upgrade: bool = False) -> Mapping[str, str]:
    """Render the chart; return the text of each template. Raises helm_python.HelmError for values that are refused."""
    chart = helm_python.Chart.load(CHART)
    with chart:
        chart.validate_schema(dict(values))
        templates: dict[str, str] = chart.render(
            dict(values), name=RELEASE, namespace=RELEASE, is_install=not is_upgrade, is_upgrade=is_upgrade
        )
    return templates


def manifests(values: Tree, *, is_upgrade: bool = False) -> Sequence[Tree]:
    """Return the rendered manifests, hooks and tests included. Raises helm_python.HelmError."""
    texts = [text for name, text in rendered(values, is_upgrade=is_upgrade).items() if name.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def settings_schema() -> Tree:
    """Return the schema of `settings`: calltag's own settings without the secret ones, all optional."""
    schema = Settings.model_json_schema()
    sections = {name: _trimmed(each) for name, each in schema["$defs"].items()}
    settings: Tree = _inlined(_trimmed(schema), sections)
    return settings


def _trimmed(schema: Tree) -> Tree:
    properties = {
        name: {key: value for key, value in each.items() if key not in {"default", "title"}}
        for name, each in schema["properties"].items()
        if not _is_secret(each)
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _is_secret(schema: Tree) -> bool:
    return any(each.get("format") == "password" for each in (schema, *schema.get("anyOf", ())))


def _inlined(schema: Any, sections: Mapping[str, Tree]) -> Any:
    if isinstance(schema, list):
        return [_inlined(each, sections) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        described = {key: value for key, value in schema.items() if key != "$ref"}
        return {**_inlined(sections[schema["$ref"].rpartition("/")[2]], sections), **described}
    return {key: _inlined(value, sections) for key, value in schema.items()}


def secrets_schema(settings: type[BaseModel] = Settings) -> Tree:
    """Return the schema of `secretSettings`: the name and key of a Secret at the place of each secret setting."""
    properties: dict[str, Tree] = {}
    for name, field in settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            section = secrets_schema(kind)
            if section["properties"]:
                properties[name] = section
        elif SecretStr in (kind, *get_args(kind)):
            properties[name] = {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "key"],
                "description": field.description or "",
                "properties": {each: {"type": "string", "minLength": 1} for each in ("name", "key")},
            }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def values_schema() -> Tree:
    """Return the JSON Schema of all values."""
    schema = Values.model_json_schema(by_alias=True)
    settings = settings_schema()
    for definition in (schema, *schema["$defs"].values()):
        definition.pop("title", None)
        for name, each in definition["properties"].items():
            each.pop("title", None)
            each.pop("default", None)
            if name in {"settings", "secretSettings"}:
                each.clear()
                each["$ref"] = f"#/$defs/{name}"
    schema["$defs"] |= {"settings": settings, "secretSettings": secrets_schema()}
    # Helm passes the values of a chart that has this one as a dependency.
    schema["properties"]["global"] = {"type": "object"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def values_text() -> str:
    """Return values.yaml: each value with its description above it."""
    return "\n".join([f"# {_GENERATED}", "---", *_lines(Values(), "")]) + "\n"


def _lines(values: Section, indent: str) -> Iterator[str]:
    for name, field in type(values).model_fields.items():
        value, key = getattr(values, name), field.alias or name
        width = _WIDTH - len(indent)
        yield from (f"{indent}# {line}" for line in textwrap.wrap(field.description or "", width))
        if isinstance(value, Section):
            yield f"{indent}{key}:"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, dict | list) and value:
            yield f"{indent}{key}:"
            yield textwrap.indent(yaml.safe_dump(value, sort_keys=False).rstrip(), f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(value)}"


def readme_text() -> str:
    """Return the README of the chart: the words of README.md.in, and a table of the values."""
    rows = [f"| `{path}` | `{json.dumps(value)}` | {description} |" for path, value, description in _rows(Values(), "")]
    table = "\n".join(["| value | default | description |", "| --- | --- | --- |", *rows])
    words = (CHART.parent / "README.md.in").read_text()
    return words.replace("VERSION", VERSION).replace("VALUES", table)


def _rows(values: Section, prefix: str) -> Iterator[tuple[str, object, str]]:
    for name, field in type(values).model_fields.items():
        value, path = getattr(values, name), f"{prefix}{field.alias or name}"
        if isinstance(value, Section):
            yield from _rows(value, f"{path}.")
        else:
            yield path, value, field.description or ""


def base_texts() -> Mapping[str, str]:
    """Return the base for kustomize: the manifests of the defaults, without those for Helm alone."""
    files: dict[str, str] = {}
    for name, text in rendered({}).items():
        found = [each for each in yaml.safe_load_all(text) if each] if name.endswith(".yaml") else []
        kept = [_for_kustomize(each) for each in found if "helm.sh/hook" not in _annotations(each) or _is_job(each)]
        if kept:
            files[Path(name).name] = "---\n" + yaml.safe_dump_all(kept, sort_keys=False, width=_WIDTH)
    resources = yaml.safe_dump({"resources": sorted(files)}, sort_keys=False)
    head = f"# {_GENERATED}\n---\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    return {**files, "kustomization.yaml": head + resources.replace("\n- ", "\n  - ")}


def _annotations(manifest: Tree) -> Tree:
    found: Tree = manifest["metadata"].get("annotations", {})
    return found


def _is_job(manifest: Tree) -> bool:
    return bool(manifest["kind"] == "Job")


def _for_kustomize(manifest: Tree) -> Tree:
    text = json.dumps(manifest).replace(
        '"app.kubernetes.io/managed-by": "Helm"', '"app.kubernetes.io/managed-by": "kustomize"'
    )
    plain: dict[str, Any] = json.loads(text)
    plain["metadata"]["labels"].pop("helm.sh/chart")
    annotations = plain["metadata"].get("annotations", {})
    for name in [each for each in annotations if each.startswith("helm.sh/")]:
        del annotations[name]
    if not annotations:
        plain["metadata"].pop("annotations", None)
    return plain


def documents() -> Mapping[Path, str]:
    """Return the text of each file that is written from elsewhere."""
    chart = re.sub(r"(?m)^((?:appV|v)ersion): .*$", rf"\1: {VERSION}", (CHART / "Chart.yaml").read_text())
    return {
        CHART / "Chart.yaml": chart,
        CHART / "values.yaml": values_text(),
        CHART / "values.schema.json": json.dumps(values_schema(), indent=2) + "\n",
        CHART / "README.md": readme_text(),
    }


def write() -> None:
    """Write all files; the base last, since it is rendered from the others."""
    for path, text in documents().items():
        path.write_text(text)
    BASE.mkdir(parents=True, exist_ok=True)
    texts = base_texts()
    for path in set(BASE.iterdir()) - {BASE / name for name in texts}:
        path.unlink()
    for name, text in texts.items():
        (BASE / name).write_text(text)


def stale() -> Sequence[Path]:
    """Return the files that are not as they would be written."""
    wanted = {**documents(), **{BASE / name: text for name, text in base_texts().items()}}
    here = {path: path.read_text() for path in {*wanted, *BASE.iterdir()} if path.exists()}
    return sorted(path for path in {*wanted, *here} if wanted.get(path) != here.get(path))


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say."""
    match arguments:
        case []:
            write()
        case ["--check"]:
            for path in stale():
                sys.stderr.write(f"{path.relative_to(ROOT)} is out of date; run: make docs\n")
            return 1 if stale() else 0
        case ["render", *files]:
            values: Tree = {} if files else WITHOUT_OPERATORS
            for each in files:
                values = merged(values, yaml.safe_load(Path(each).read_text()) or {})
            try:
                texts = rendered(values)
            except helm_python.HelmError as error:
                sys.stderr.write(f"{error}\n")
                return 1
            for name, text in texts.items():
                if name.endswith(".yaml") and text.strip():
                    sys.stdout.write(f"---\n# Source: {name}\n{text.strip().removeprefix('---').strip()}\n")
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 2
    return 0


def merged(one: Tree, other: Tree) -> dict[str, Any]:
    """Return both trees as one; `other` wins."""
    both = {
        key: merged(one[key], value) if isinstance(value, dict) and isinstance(one.get(key), dict) else value
        for key, value in other.items()
    }
    return {**one, **both}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
