"""The values of the Helm chart: their types, defaults and descriptions.

values.yaml, its JSON Schema and the table in the chart's README are written from here (deploy/chart.py). The settings
of calltag are values as well: `settings` and `secretSettings` have the shape of its own settings tree.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Objects = list[dict[str, Any]]
Labels = dict[str, str]
Quantity = int | str


class Section(BaseModel):
    """A group of values; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


def _described(section: type[Section]) -> Any:
    """Return a field with the defaults of a group, described by its docstring."""
    return Field(section(), description=section.__doc__)


class Image(Section):
    """The image, the same for all services."""

    registry: str = Field("", description="Registry, put before the repository.")
    repository: str = Field("calltag", min_length=1, description="Repository.")
    tag: str = Field("", description="Tag; the chart's `appVersion` by default.")
    digest: str = Field("", pattern=r"^(sha256:[0-9a-f]{64})?$", description="Digest, which wins over the tag.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field("IfNotPresent", description="Pull policy.")


class ServiceAccount(Section):
    """The ServiceAccount of all pods. calltag never uses the Kubernetes API: no token is mounted."""

    create: bool = Field(True, description="Create it.")
    name: str = Field("", description="Its name; the full name of the release by default.")
    annotations: Labels = Field({}, description="Annotations.")


class Directory(Section):
    """The file of users, see docs/directory.md. Pods read it again when the Secret changes."""

    existing_secret: str = Field(
        "calltag-directory", description="Secret that has the file; empty with `settings.directory.demo`."
    )
    key: str = Field("directory.toml", min_length=1, description="Key of the file.")


class ServerTls(Section):
    """TLS on the ports for clients. By default the Ingress or Gateway ends TLS."""

    existing_secret: str = Field("", description="Secret with `tls.crt` and `tls.key`, such as one of cert-manager.")
    verify_clients: bool = Field(False, description="Require client certificates of the authorities in `ca.crt`.")


class ClientTls(Section):
    """TLS to RabbitMQ or Redis, for URLs with `amqps://` or `rediss://`."""

    existing_secret: str = Field("", description="Secret with `ca.crt`, the authorities to trust.")
    client_certificate: bool = Field(False, description="Present the certificate in `tls.crt` and `tls.key`.")


class Service(Section):
    """The Service for clients."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field("ClusterIP", description="Type.")
    port: int = Field(80, ge=1, le=65535, description="Port.")
    annotations: Labels = Field({}, description="Annotations.")
    traffic_distribution: str = Field("", description="Traffic distribution, such as `PreferClose`.")


class DisruptionBudget(Section):
    """PodDisruptionBudget."""

    enabled: bool = Field(True, description="Create one.")
    max_unavailable: Quantity = Field(1, description="Pods that may be evicted at a time.")


class Hpa(Section):
    """HorizontalPodAutoscaler. It replaces `replicas`."""

    enabled: bool = Field(False, description="Create one.")
    min_replicas: int = Field(2, ge=1, description="Minimum number of pods.")
    max_replicas: int = Field(10, ge=1, description="Maximum number of pods.")
    target_cpu_utilization: int = Field(65, ge=1, le=1000, description="CPU of the pods, in percent of the request.")
    behavior: dict[str, Any] = Field({}, description="Behavior; by default slow to scale down.")


class SessionsHpa(Hpa):
    """HorizontalPodAutoscaler. It replaces `replicas`."""

    sessions_per_pod: int = Field(
        0,
        ge=0,
        description="CometD sessions of one pod. Needs a custom metrics API that serves `calltag_cometd_sessions`, "
        "such as prometheus-adapter; 0 scales by CPU alone.",
    )


class Keda(Section):
    """ScaledObject of KEDA. It replaces `replicas`, and needs a Prometheus that scrapes calltag."""

    enabled: bool = Field(False, description="Create one.")
    min_replicas: int = Field(2, ge=1, description="Minimum number of workers.")
    max_replicas: int = Field(
        0, ge=0, description="Maximum number of workers: not more than there are partitions; 0 is 8, or all partitions."
    )
    server_address: str = Field("", description="Address of Prometheus, as in http://prometheus.monitoring:9090.")
    selector: str = Field(
        "", description="Label matchers of calltag's metrics; by default those of its ServiceMonitor."
    )
    oldest_operation_s: float = Field(
        2, gt=0, description="Age of the oldest operation, in seconds, beyond which workers are added."
    )
    backlog_operations: int = Field(
        500, ge=1, description="Operations in the fullest partition beyond which workers are added."
    )
    polling_interval: int = Field(15, ge=1, description="Seconds between two looks at the metrics.")
    cooldown_s: int = Field(600, ge=0, description="Seconds of less load before a worker is removed.")
    authentication_ref: str = Field("", description="TriggerAuthentication for Prometheus, if it needs one.")


class Pods(Section):
    """The pods of one service."""

    replicas: int = Field(2, ge=0, description="Number of pods.")
    settings: dict[str, Any] = Field({}, description="Settings of these pods alone; they win over `settings`.")
    resources: dict[str, Any] = Field({}, description="Requests and limits, see docs/sizing.md.")
    pod_disruption_budget: DisruptionBudget = _described(DisruptionBudget)
    topology_spread_constraints: Objects = Field([], description="By default pods are spread over zones and nodes.")
    affinity: dict[str, Any] = Field({}, description="Affinity.")
    node_selector: Labels = Field({}, description="Node selector.")
    tolerations: Objects = Field([], description="Tolerations.")
    priority_class_name: str = Field("", description="Priority class.")
    pod_annotations: Labels = Field({}, description="Annotations of the pods.")
    pod_labels: Labels = Field({}, description="Labels of the pods.")
    extra_env: Objects = Field([], description="Further environment variables.")
    extra_env_from: Objects = Field([], description="Further sources of environment variables.")
    extra_volumes: Objects = Field([], description="Further volumes.")
    extra_volume_mounts: Objects = Field([], description="Further volume mounts.")
    init_containers: Objects = Field([], description="Init containers.")
    sidecars: Objects = Field([], description="Further containers.")


def _resources(cpu: str, memory: str, limit: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": limit}}


class GatewayPods(Pods):
    """Pods that serve the HTTP API."""

    resources: dict[str, Any] = Field(_resources("500m", "192Mi", "512Mi"), description="Requests and limits.")
    service: Service = _described(Service)
    autoscaling: Hpa = _described(Hpa)


class WorkerPods(Pods):
    """Pods that apply operations. More than there are partitions are idle."""

    resources: dict[str, Any] = Field(_resources("500m", "256Mi", "768Mi"), description="Requests and limits.")
    keda: Keda = _described(Keda)


class NotifierPods(Pods):
    """Pods that serve CometD."""

    resources: dict[str, Any] = Field(_resources("500m", "384Mi", "1Gi"), description="Requests and limits.")
    service: Service = _described(Service)
    autoscaling: SessionsHpa = _described(SessionsHpa)


class Ingress(Section):
    """Ingress that splits by path: CometD to the notifiers, everything else to the gateways."""

    enabled: bool = Field(False, description="Create one.")
    class_name: str = Field("", description="Class.")
    annotations: Labels = Field({}, description="Annotations.")
    hosts: list[str] = Field([], description="Host names.")
    tls: Objects = Field([], description="TLS, as in the Ingress: `secretName` and `hosts`.")


class HttpRoute(Section):
    """HTTPRoute of the Gateway API, with the same paths."""

    enabled: bool = Field(False, description="Create one.")
    parent_refs: Objects = Field([], description="Gateways.")
    hostnames: list[str] = Field([], description="Host names.")
    annotations: Labels = Field({}, description="Annotations.")


class NetworkPolicy(Section):
    """NetworkPolicies for ingress and egress of all pods."""

    enabled: bool = Field(False, description="Create them.")
    clients: Objects = Field([], description="Peers that may use the client ports; empty allows all.")
    monitoring: Objects = Field([], description="Peers that may use the internal port; empty allows all.")
    rabbitmq: Objects = Field([], description="Peers of RabbitMQ; empty allows all addresses, on its ports alone.")
    rabbitmq_ports: list[int] = Field([5671, 5672], description="Ports of RabbitMQ.")
    redis: Objects = Field([], description="Peers of Redis; empty allows all addresses, on its ports alone.")
    redis_ports: list[int] = Field([6379, 6380, 26379], description="Ports of Redis, and of Sentinels.")
    extra_egress: Objects = Field([], description="Further egress rules.")


class ServiceMonitor(Section):
    """ServiceMonitor of the Prometheus operator, for the internal ports."""

    enabled: bool = Field(False, description="Create one.")
    interval: str = Field("15s", description="Interval.")
    labels: Labels = Field({}, description="Labels by which Prometheus selects it.")


class PrometheusRule(Section):
    """PrometheusRule with the alerts of docs/metrics.md (files/alerts.yaml)."""

    enabled: bool = Field(False, description="Create one.")
    labels: Labels = Field({}, description="Labels by which Prometheus selects it.")


class Dashboards(Section):
    """ConfigMap with the dashboard, which Grafana's sidecar finds by its label."""

    enabled: bool = Field(False, description="Create it.")
    labels: Labels = Field({"grafana_dashboard": "1"}, description="Labels by which the sidecar finds it.")


class RabbitMqCluster(Section):
    """RabbitmqCluster of RabbitMQ's cluster operator. Its user replaces `secretSettings.amqp.url`."""

    create: bool = Field(False, description="Create one.")
    replicas: int = Field(3, ge=1, description="Nodes.")
    image: str = Field("", description="Image; that of the operator by default.")
    storage: str = Field("20Gi", description="Storage of a node.")
    storage_class_name: str = Field("", description="Storage class.")
    resources: dict[str, Any] = Field(
        {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}, description="Requests and limits."
    )


class RabbitMqTopology(Section):
    """Exchanges, queues and bindings as resources of RabbitMQ's topology operator, in place of the hook job."""

    create: bool = Field(False, description="Create them.")
    cluster: str = Field("", description="RabbitmqCluster; that of this chart by default.")


class RabbitMq(Section):
    """Resources of RabbitMQ's operators."""

    cluster: RabbitMqCluster = _described(RabbitMqCluster)
    topology: RabbitMqTopology = _described(RabbitMqTopology)


class TopologyJob(Section):
    """Job `calltag topology apply`, before each installation and upgrade."""

    enabled: bool = Field(True, description="Create it.")
    resources: dict[str, Any] = Field(_resources("100m", "96Mi", "256Mi"), description="Requests and limits.")


class Values(Section):
    """All values of the chart."""

    image: Image = _described(Image)
    image_pull_secrets: Objects = Field([], description="Pull secrets.")
    name_override: str = Field("", description="Name in place of that of the chart.")
    fullname_override: str = Field("", description="Name of all resources in place of release and chart.")
    common_labels: Labels = Field({}, description="Labels of all resources.")
    service_account: ServiceAccount = _described(ServiceAccount)
    settings: dict[str, Any] = Field(
        {},
        description="Settings of all services, by section, as in `amqp: {prefix: calltag}`; see docs/settings.md.",
    )
    secret_settings: dict[str, Any] = Field(
        {
            "amqp": {"url": {"name": "calltag-rabbitmq", "key": "url"}},
            "redis": {"url": {"name": "calltag-redis", "key": "url"}},
        },
        description="Settings that are secret, each with the Secret and the key that have it.",
    )
    directory: Directory = _described(Directory)
    tls: ServerTls = _described(ServerTls)
    amqp_tls: ClientTls = _described(ClientTls)
    redis_tls: ClientTls = _described(ClientTls)
    pre_stop_seconds: int = Field(
        5,
        ge=0,
        le=600,
        description="Time before SIGTERM, in which endpoints are removed everywhere. The grace period is "
        "the sum of this, `drain_delay_s` and `drain_timeout_s`, and ten seconds.",
    )
    gateway: GatewayPods = _described(GatewayPods)
    worker: WorkerPods = _described(WorkerPods)
    notifier: NotifierPods = _described(NotifierPods)
    topology_job: TopologyJob = _described(TopologyJob)
    ingress: Ingress = _described(Ingress)
    http_route: HttpRoute = _described(HttpRoute)
    network_policy: NetworkPolicy = _described(NetworkPolicy)
    service_monitor: ServiceMonitor = _described(ServiceMonitor)
    prometheus_rule: PrometheusRule = _described(PrometheusRule)
    dashboards: Dashboards = _described(Dashboards)
    rabbitmq: RabbitMq = _described(RabbitMq)


DEFAULTS: Mapping[str, Any] = Values().model_dump(by_alias=True)
