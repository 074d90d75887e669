"""The Helm chart and the base for kustomize: valid manifests, and settings that calltag itself understands."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import helm_python
import kubernetes_validate
import pytest
import yaml

import chart
from calltag.core.broker.ports import Partition, hash_tag
from calltag.core.broker.rabbitmq.topology import RabbitMqSettings, Topology
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.settings import Settings, load_settings, settings_table, unknown_settings
from parts.image import argument
from unit.deploy.manifests import Manifest, check, environment, of_kind, pods

ROOT: Final = Path(__file__).parents[3]
SECRETS: Final = {
    "calltag-rabbitmq/url": "amqp://calltag:secret@rabbitmq:5672/",
    "calltag-redis/url": "redis://:secret@redis:6379/0",
    "calltag-rabbitmq-default-user/connection_string": "amqp://default:secret@calltag-rabbitmq.calltag.svc:5672/",
    "passwords/sentinel": "secret",
    "passwords/key": "secret",
}
SERVICES: Final = ("gateway", "worker", "notifier")
MONITORING: Final = {
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True, "labels": {"role": "rules"}},
}
KEDA: Final = {"enabled": True, "serverAddress": "http://prometheus.monitoring:9090"}
DEMO: Final = {"directory": {"existingSecret": ""}, "settings": {"directory": {"demo": True, "demo_on_network": True}}}
PODS: Final = {
    "podAnnotations": {"a": "1"}, "podLabels": {"team": "voice"}, "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "voice", "operator": "Exists"}], "priorityClassName": "high",
    "affinity": {"nodeAffinity": {}}, "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "extraEnvFrom": [{"configMapRef": {"name": "more"}}], "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "initContainers": [{"name": "wait", "image": "busybox"}], "sidecars": [{"name": "proxy", "image": "envoy"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": "25%"},
}  # fmt: skip
MATRIX: Final[Mapping[str, Mapping[str, Any]]] = {
    "defaults": {},
    "without-operators": chart.WITHOUT_OPERATORS,
    "demo": DEMO,
    "monitoring": {
        **MONITORING,
        "worker": {"keda": KEDA | {"authenticationRef": "prometheus", "oldestOperationS": 0.5}},
    },
    "operators-of-rabbitmq": {
        "rabbitmq": {"cluster": {"create": True, "storageClassName": "ssd"}, "topology": {"create": True}},
    },
    "a-cluster-of-its-own": {"rabbitmq": {"cluster": {"create": True, "image": "rabbitmq:4.1"}}},
    "topology-of-another-cluster": {
        "rabbitmq": {"topology": {"create": True, "cluster": "shared"}},
        "settings": {"partitions": 4, "amqp": {"prefix": "voice_2", "replicas": 5, "queue_max_length": 7}},
    },
    "tls": {
        "tls": {"existingSecret": "server", "verifyClients": True},
        "amqpTls": {"existingSecret": "amqp", "clientCertificate": True},
        "redisTls": {"existingSecret": "redis"},
        "secretSettings": {"amqp": {"tls": {"key_password": {"name": "passwords", "key": "key"}}}},
    },
    "sentinels": {
        "settings": {"redis": {"mode": "sentinel", "sentinel_service": "voice"}},
        "secretSettings": {"redis": {"sentinel_password": {"name": "passwords", "key": "sentinel"}}},
    },
    "ingress": {
        "ingress": {
            "enabled": True, "className": "nginx", "hosts": ["a.example.com", "b.example.com"],
            "tls": [{"secretName": "tls", "hosts": ["a.example.com"]}], "annotations": {"x": "y"},
        },
        "settings": {"trusted_proxies": ["10.0.0.0/8", "fd00::/8"]},
    },
    "ingress-without-a-host": {"ingress": {"enabled": True}},
    "pods": dict.fromkeys(SERVICES, PODS),
    "names": {
        "fullnameOverride": "a-very-long-name-of-an-installation-of-voice", "nameOverride": "voice",
        "commonLabels": {"team": "voice"}, "imagePullSecrets": [{"name": "registry"}],
        "serviceAccount": {"create": False, "name": "voice"},
        "image": {"registry": "registry.example.com/", "repository": "voice/calltag", "digest": f"sha256:{'0' * 64}"},
    },
    "network": {
        "networkPolicy": {
            "enabled": True, "clients": [{"namespaceSelector": {}}], "monitoring": [{"podSelector": {}}],
            "rabbitmq": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "redis": [{"podSelector": {}}],
            "extraEgress": [{"ports": [{"port": 443}]}],
        },
    },
    "drain": {"preStopSeconds": 0, "settings": {"drain_delay_s": 2.5, "drain_timeout_s": 30}},
    "services": {
        "gateway": {"service": {"type": "LoadBalancer", "port": 443, "trafficDistribution": "PreferClose"}},
        "notifier": {"settings": {"log": {"level": "debug"}, "max_connections": 50_000}},
        "worker": {"replicas": 0, "podDisruptionBudget": {"enabled": False}},
        "topologyJob": {"enabled": False},
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=MATRIX)
def values(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    return MATRIX[request.param]


@pytest.fixture(scope="module")
def manifests(values: Mapping[str, Any]) -> Sequence[Manifest]:
    return chart.manifests(values)


def settings_of(pod: Manifest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return what calltag makes of the environment of a pod."""
    for name in os.environ:
        if name.startswith("CALLTAG_"):
            monkeypatch.delenv(name)
    for name, value in environment(pod).items():
        monkeypatch.setenv(name, SECRETS.get(value, value))
    assert unknown_settings() == []
    return load_settings()


def get(settings: Settings, path: str) -> object:
    value: object = settings
    for each in path.split("."):
        value = getattr(value, each)
    return value


def test_the_written_files_are_up_to_date() -> None:
    assert chart.stale() == []


def test_helm_finds_nothing_to_say() -> None:
    report = helm_python.lint(str(chart.CHART), values=dict(chart.WITHOUT_OPERATORS))
    assert report["total_charts_linted"] == 1
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


def test_manifests_are_valid(manifests: Sequence[Manifest]) -> None:
    assert {"Deployment", "Service", "Pod"} <= {each["kind"] for each in manifests}
    for each in manifests:
        check(each)


def test_no_two_manifests_have_one_name(manifests: Sequence[Manifest]) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert sorted(names) == sorted(set(names))
    assert all(len(name) <= 63 for _, name in names)


@pytest.mark.parametrize("changed", [{"replicas": "2"}, {"replica": 2}])
def test_an_invalid_manifest_is_found(changed: Mapping[str, Any]) -> None:
    deployment = of_kind(chart.manifests({}), "Deployment")["calltag-worker"]
    with pytest.raises(kubernetes_validate.ValidationError):
        check({**deployment, "spec": {**deployment["spec"], **changed}})


def test_calltag_understands_its_environment(
    manifests: Sequence[Manifest], values: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(pods(manifests))
    assert set(SERVICES) <= set(found)
    for component, pod in found.items():
        settings = settings_of(pod, monkeypatch)
        given = chart.merged(values.get("settings", {}), values.get(component, {}).get("settings", {}))
        for path, value in leaves(given):
            assert get(settings, path) == (tuple(value) if isinstance(value, list) else value), path
        assert settings.amqp.url.get_secret_value() in SECRETS.values()
        assert (settings.internal.host, settings.log.format) == ("0.0.0.0", "json")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def test_every_setting_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, secret = chart.settings_schema(), chart.secrets_schema()
    for row in settings_table():
        *sections, name = row.variable.removeprefix("CALLTAG_").lower().split("__")
        is_in = [name in dig(schema, sections) for schema in (plain, secret)]
        assert sum(is_in) == 1, row.variable


def dig(schema: Mapping[str, Any], sections: Sequence[str]) -> Mapping[str, Any]:
    for each in sections:
        schema = schema["properties"].get(each, {"properties": {}})
    properties: Mapping[str, Any] = schema["properties"]
    return properties


def test_each_default_survives_the_way_through_the_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large numbers, lists, booleans and texts."""
    defaults = Settings.model_construct().model_dump(mode="json", exclude_none=True)
    plain = without_secrets(defaults, chart.settings_schema())
    own = {"gateway.host", "notifier.host", "internal.host", "log.format", "directory.file"}
    found = dict(pods(chart.manifests({"settings": plain, "directory": {"existingSecret": "users"}})))
    settings = settings_of(found["gateway"], monkeypatch)
    checked = [path for path, _ in leaves(plain) if path not in own]
    assert len(checked) > 120
    for path in checked:
        assert get(settings, path) == get(Settings.model_construct(), path), path


def without_secrets(tree: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: without_secrets(value, schema["properties"][name]) if isinstance(value, dict) else value
        for name, value in tree.items()
        if name in schema["properties"]
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settings": {"amqp": {"prefx": "a"}}}, "prefx"),
        ({"settings": {"partitions": 0}}, "partitions"),
        ({"settings": {"amqp": {"url": "amqp://a:b@c/"}}}, "url"),
        ({"gateway": {"settings": {"gateway": {"port": 70_000}}}}, "port"),
        ({"gateway": {"settings": {"partitions": 16}}}, "must be the same for all services"),
        ({"worker": {"settings": {"redis": {"key_prefix": "b"}}}}, "must be the same for all services"),
        ({"secretSettings": {"amqp": {"url": {"name": "a"}, "prefix": {"name": "a", "key": "b"}}}}, "prefix"),
        ({"replicas": 3}, "replicas"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"directory": {"existingSecret": ""}}, "directory.existingSecret: name the Secret"),
        ({"settings": {"directory": {"demo": True}}}, "settings.directory.demo excludes"),
        ({"worker": {"keda": {"enabled": True}}}, "worker.keda.serverAddress"),
        ({"worker": {"keda": KEDA | {"maxReplicas": 33}}}, "33 workers are more than there are partitions (32)"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs"),
        ({"rabbitmq": {"topology": {"create": True}}}, "rabbitmq.topology.cluster"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: Mapping[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(message)):
        chart.rendered(wrong)


def test_pods_are_restricted(manifests: Sequence[Manifest]) -> None:
    """As the Pod Security Standard `restricted` demands, with a root that cannot be written."""
    for _, pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(argument("USER"))
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        security = pod["containers"][0]["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False


def test_every_mount_has_its_volume_and_every_file_its_mount(
    manifests: Sequence[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, pod in pods(manifests):
        volumes = [each["name"] for each in pod["volumes"]]
        mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert sorted(volumes) == sorted(mounts)
        files = {value for value in environment(pod).values() if value.startswith("/etc/calltag/")}
        assert {str(Path(each).parent) for each in files} == set(mounts.values()) - {"/tmp", "/more"}


def test_workers_have_neither_users_nor_the_key_of_the_server() -> None:
    found = dict(pods(chart.manifests({"tls": {"existingSecret": "server"}})))
    assert {each["name"] for each in found["worker"]["volumes"]} == {"tmp"}
    assert {each["name"] for each in found["gateway"]["volumes"]} == {"tmp", "directory", "tls"}


def test_services_policies_and_budgets_find_their_pods_and_ports(manifests: Sequence[Manifest]) -> None:
    labels = {
        each["metadata"]["name"]: {
            "labels": each["spec"]["template"]["metadata"]["labels"],
            "ports": {port["name"] for port in each["spec"]["template"]["spec"]["containers"][0].get("ports", ())},
        }
        for each in manifests
        if each["kind"] in {"Deployment", "Job"}
    }

    def found(selector: Mapping[str, str]) -> list[Mapping[str, Any]]:
        return [pod for pod in labels.values() if selector.items() <= pod["labels"].items()]

    for service in of_kind(manifests, "Service").values():
        of_service = found(service["spec"]["selector"])
        assert len(of_service) == (3 if service["spec"].get("clusterIP") == "None" else 1) or "topology" in str(
            of_service
        )
        for port in service["spec"]["ports"]:
            assert any(port["targetPort"] in pod["ports"] for pod in of_service)
    for budget in of_kind(manifests, "PodDisruptionBudget").values():
        assert len(found(budget["spec"]["selector"]["matchLabels"])) == 1
    for policy in of_kind(manifests, "NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]["matchLabels"]
        wanted = {rule["ports"][0]["port"] for rule in policy["spec"].get("ingress", ())}
        if selector["app.kubernetes.io/component"] != "test":
            [pod] = found(selector)
            assert wanted == pod["ports"]
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for scaler in of_kind(manifests, kind).values():
            target = of_kind(manifests, "Deployment")[scaler["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in target["spec"]


def test_pods_have_the_time_that_their_drain_takes() -> None:
    for given, wanted in ((MATRIX["drain"], 0 + 3 + 30 + 10), ({}, 5 + 0 + 10 + 10)):
        for name, pod in pods(chart.manifests(given)):
            if name in SERVICES:
                assert pod["terminationGracePeriodSeconds"] == wanted
                seconds = pod["containers"][0].get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
                assert seconds["sleep"]["seconds"] == given.get("preStopSeconds", 5)


def test_probes_are_on_the_internal_port(manifests: Sequence[Manifest]) -> None:
    for name, pod in pods(manifests):
        container = pod["containers"][0]
        if name in SERVICES:
            probes = {each: container[f"{each}Probe"]["httpGet"] for each in ("startup", "liveness", "readiness")}
            assert {each["port"] for each in probes.values()} == {"internal"}
            assert [each["path"] for each in probes.values()] == ["/livez", "/livez", "/readyz"]


@pytest.mark.parametrize("kind", ["Ingress", "HTTPRoute"])
def test_the_front_sends_cometd_to_the_notifiers_and_the_rest_to_the_gateways(kind: str) -> None:
    [route] = of_kind(chart.manifests(chart.WITHOUT_OPERATORS), kind).values()
    services = of_kind(chart.manifests({}), "Service")
    places: dict[str, str] = {}
    for rule in route["spec"]["rules"]:
        if kind == "Ingress":
            places |= {each["path"]: each["backend"]["service"]["name"] for each in rule["http"]["paths"]}
        else:
            [backend] = rule["backendRefs"]
            assert backend["port"] == services[backend["name"]]["spec"]["ports"][0]["port"]
            places |= {each["path"]["value"]: backend["name"] for each in rule["matches"]}
    assert places == {**dict.fromkeys(COMETD_PATHS, "calltag-notifier"), "/": "calltag-gateway"}


@pytest.mark.parametrize("name", ["operators-of-rabbitmq", "topology-of-another-cluster"])
def test_resources_of_the_topology_operator_are_those_of_topology_apply(name: str) -> None:
    amqp = MATRIX[name].get("settings", {}).get("amqp", {})
    partitions = MATRIX[name].get("settings", {}).get("partitions", 32)
    topology = Topology(RabbitMqSettings("", partitions=partitions, **amqp))
    found = chart.manifests(MATRIX[name])
    exchanges = [each["spec"] for each in of_kind(found, "Exchange").values()]
    assert {each["name"]: each["type"] for each in exchanges} == {
        each: kind.value for each, kind in topology.exchanges.items()
    }
    queues = {each["spec"]["name"]: each["spec"] for each in of_kind(found, "Queue").values()}
    tags = {topology.partition_queue(each): hash_tag(each) for each in map(Partition, range(partitions))}
    assert queues.keys() == {topology.parking, *tags}
    for queue, spec in queues.items():
        wanted = topology.parking_arguments if queue == topology.parking else topology.partition_arguments
        assert spec["arguments"] == wanted
        assert (spec["type"], spec["durable"], spec["autoDelete"]) == ("quorum", True, False)
        assert spec["deletionPolicy"] == "retain"
    bindings = [each["spec"] for each in of_kind(found, "Binding").values()]
    assert {(each["source"], each["destination"], each["routingKey"]) for each in bindings} == {
        (topology.parking, topology.parking, ""),
        *((topology.operations, queue, tag) for queue, tag in tags.items()),
    }
    assert not of_kind(found, "Job")


def test_resources_of_rabbitmq_stay_when_the_release_goes() -> None:
    """With an exchange or a binding, the operations that wait would be lost or have no way."""
    found = [each for each in chart.manifests(MATRIX["operators-of-rabbitmq"]) if "rabbitmq.com" in each["apiVersion"]]
    assert {each["kind"] for each in found} == {"RabbitmqCluster", "Exchange", "Queue", "Binding"}
    assert {each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in found} == {"keep"}


def test_the_topology_is_applied_before_the_services_come() -> None:
    [job] = of_kind(chart.manifests({}), "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    own = MATRIX["a-cluster-of-its-own"]
    [job] = of_kind(chart.manifests(own), "Job").values()
    assert "helm.sh/hook" not in job["metadata"]["annotations"], "the cluster comes with the release, not before it"
    [job] = of_kind(chart.manifests(own, is_upgrade=True), "Job").values()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_workers_are_never_more_than_partitions() -> None:
    for partitions, wanted in ((32, (2, 8)), (4, (2, 4)), (1, (1, 1))):
        given = {"settings": {"partitions": partitions}, "worker": {"keda": KEDA}}
        [scaler] = of_kind(chart.manifests(given), "ScaledObject").values()
        assert (scaler["spec"]["minReplicaCount"], scaler["spec"]["maxReplicaCount"]) == wanted


def test_metrics_by_which_it_scales_and_alerts_exist() -> None:
    known = set(re.findall(r"^\| `(calltag_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    found = chart.manifests(chart.merged(MATRIX["monitoring"], chart.WITHOUT_OPERATORS))
    scaled_by = [
        *(each["metadata"]["query"] for each in of_kind(found, "ScaledObject")["calltag-worker"]["spec"]["triggers"]),
        *(
            each["pods"]["metric"]["name"]
            for each in of_kind(found, "HorizontalPodAutoscaler")["calltag-notifier"]["spec"]["metrics"]
            if each["type"] == "Pods"
        ),
    ]
    rules = [rule for group in yaml.safe_load(alerts())["groups"] for rule in group["rules"]]
    used = set(re.findall(r"calltag_\w+", " ".join([*scaled_by, *(rule["expr"] for rule in rules)])))
    assert len(scaled_by) == 3
    assert used <= known


def alerts() -> str:
    return (chart.CHART / "files" / "alerts.yaml").read_text()


def test_all_alerts_of_the_manual_are_rules() -> None:
    _, _, table = (ROOT / "docs" / "metrics.md").read_text().partition("## Alerts")
    assert set(re.findall(r"calltag_\w+", table)) - {"calltag_backlog_age_seconds"} <= set(
        re.findall(r"calltag_\w+", alerts())
    )


def notes(values: Mapping[str, Any]) -> str:
    return re.sub(r"\s+", " ", chart.rendered(values)["calltag/templates/NOTES.txt"])


def test_the_notes_say_what_is_missing() -> None:
    plain = notes({})
    for each in ("calltag-rabbitmq, key url", "calltag-redis, key url", "calltag-directory, key directory.toml"):
        assert each in plain
    assert "settings.public_url is not set" in plain
    with_ingress = notes(MATRIX["ingress-without-a-host"])
    assert "settings.trusted_proxies is empty" in with_ingress
    assert "Clients use https://a.example.com." in notes(MATRIX["ingress"])
    assert "WARNING" not in notes(MATRIX["ingress"])
    assert "every password is `demo`" in notes(DEMO)


@pytest.mark.parametrize("folder", ["base", "overlays/example"])
def test_kustomize_builds(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run(
        [kubectl, "kustomize", ROOT / "deploy" / "kustomize" / folder], capture_output=True, text=True, check=True
    )
    built = list(yaml.safe_load_all(done.stdout))
    for each in built:
        check(each)
    assert not [each for each in built if "helm" in str(each).lower()]
    found = dict(pods(built))
    assert set(found) == {*SERVICES, "topology"}
    for name, pod in found.items():
        settings = settings_of(pod, monkeypatch)
        if folder != "base" and name in {"gateway", "notifier"}:
            assert settings.public_url == "https://calltag.example.com"


def test_rendering_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("settings: {partitions: 0}\n")
    assert chart.main(["render", str(file)]) == 1
    assert "partitions" in capsys.readouterr().err
    file.write_text("settings: {partitions: 4}\n")
    assert chart.main(["render", str(file)]) == 0
    assert all(yaml.safe_load_all(capsys.readouterr().out))
