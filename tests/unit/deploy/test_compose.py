"""What is deployed fits the program: commands, variables, names and ports."""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from calltag.cli.main import app
from calltag.core.http.scope import COMETD_PATHS, TrustedProxies
from calltag.core.settings import Settings, settings_table

DEPLOY = Path(__file__).parents[3] / "deploy"
COMPOSE: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: Mapping[str, Mapping[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("calltag")]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
FRONT = (DEPLOY / "front.conf").read_text()
EXPOSED = set(map(int, re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[0].split()))


def test_every_service_is_there() -> None:
    assert set(OURS) == {"topology", "gateway", "worker", "notifier"}


@pytest.mark.parametrize("name", OURS)
def test_every_service_runs_a_command_that_there_is(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in SERVICES[name]["command"]:
        assert word in command.commands
        command = command.commands[word]
    assert not hasattr(command, "commands"), "the command wants one more word"


def test_every_variable_is_a_setting() -> None:
    known = {row.variable for row in settings_table()}
    given = {variable for name in OURS for variable in SERVICES[name]["environment"]}
    assert "CALLTAG_AMQP__URL" in given
    assert given | set(re.findall(r"CALLTAG_\w+(?==)", DOCKERFILE)) <= known


def test_the_addresses_name_services() -> None:
    for name in OURS:
        environment = SERVICES[name]["environment"]
        hosts = [
            re.findall(r"(?:@|//)([a-z]+):\d+/", environment[f"CALLTAG_{each}__URL"]) for each in ("AMQP", "REDIS")
        ]
        assert hosts == [["rabbitmq"], ["redis"]]
        assert {"rabbitmq", "redis"} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_is_there_and_can_be_waited_for(name: str) -> None:
    waited_for = SERVICES[name].get("depends_on", {})
    assert set(waited_for) <= set(SERVICES)
    for other, how in waited_for.items() if isinstance(waited_for, dict) else ():
        match how["condition"]:
            case "service_healthy":
                # The image of calltag has one.
                assert other in OURS or "test" in SERVICES[other]["healthcheck"]
            case "service_completed_successfully":
                assert SERVICES[other]["restart"] == "on-failure"
            case condition:
                pytest.fail(f"{condition} is not known")


def test_no_password_has_a_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    passwords = re.findall(r"\$\{(\w*PASSWORD)(\S{0,2})", text)
    assert {name for name, _ in passwords} == {"RABBITMQ_PASSWORD", "REDIS_PASSWORD"}
    assert {how for _, how in passwords} == {":?"}
    for url in re.findall(r"\w+://(\S*?:.*?)@", text):
        assert re.fullmatch(r"\w*:\$\{\w+_PASSWORD:\?[^}]+\}", url)
    assert SERVICES["rabbitmq"]["environment"]["RABBITMQ_DEFAULT_PASS"].startswith("${RABBITMQ_PASSWORD:?")
    assert SERVICES["redis"]["environment"]["REDISCLI_AUTH"].startswith("${REDIS_PASSWORD:?")
    assert COMPOSE["configs"]["valkey"]["content"].startswith("requirepass ${REDIS_PASSWORD:?")


def test_every_image_has_a_version_and_can_be_pinned() -> None:
    others = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    assert len(others) == 3
    for image in others:
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z/]+:\d[\w.-]*\}", image)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d", DOCKERFILE, re.MULTILINE)


def test_the_demo_is_published_on_this_machine_alone() -> None:
    assert SERVICES["gateway"]["environment"]["CALLTAG_DIRECTORY__DEMO_ON_NETWORK"] == "true"
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_mounted_file_and_volume_is_there() -> None:
    for service in SERVICES.values():
        for source in (volume.partition(":")[0] for volume in service.get("volumes", ())):
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists()


def test_the_image_exposes_the_ports_that_are_listened_on() -> None:
    settings = Settings.model_construct()
    assert {settings.gateway.port, settings.notifier.port, settings.internal.port} == EXPOSED
    assert f"http://127.0.0.1:{settings.internal.port}/livez" in DOCKERFILE


def test_the_image_is_built_of_files_that_there_are() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (DEPLOY.parent / source).exists()


def test_the_front_leads_to_services_on_ports_that_they_listen_on() -> None:
    upstreams = dict(re.findall(r"upstream (\w+) \{[^}]*?server ([\w:]+) resolve;", FRONT))
    settings = Settings.model_construct()
    assert upstreams == {
        "notifiers": f"notifier:{settings.notifier.port}",
        "gateways": f"gateway:{settings.gateway.port}",
    }
    assert {server.partition(":")[0] for server in upstreams.values()} <= set(OURS)
    assert {int(server.partition(":")[2]) for server in upstreams.values()} <= EXPOSED
    assert set(re.findall(r"proxy_pass http://(\w+);", FRONT)) == set(upstreams)
    assert set(SERVICES["front"]["depends_on"]) == {server.partition(":")[0] for server in upstreams.values()}


def test_the_front_listens_where_clients_are_told_to_go() -> None:
    [port] = SERVICES["front"]["ports"]
    assert re.findall(r"listen (\d+);", FRONT) == [port.rpartition(":")[2]]
    assert SERVICES["gateway"]["environment"]["CALLTAG_PUBLIC_URL"] == f"http://{port.rpartition(':')[0]}"


@pytest.mark.parametrize("path", COMETD_PATHS)
def test_the_front_sends_cometd_to_the_notifiers(path: str) -> None:
    location, target = re.findall(r"location ~ (\S+) \{\s*proxy_pass http://(\w+);", FRONT)[0]
    assert target == "notifiers"
    assert re.match(location, f"{path}/connect")
    assert not re.match(location, "/api/v2/me")


@pytest.mark.parametrize("name", ["gateway", "notifier"])
def test_the_addresses_that_the_front_tells_are_believed_and_no_others(name: str) -> None:
    [subnet] = (each["subnet"] for each in COMPOSE["networks"]["front"]["ipam"]["config"])
    assert SERVICES[name]["environment"]["CALLTAG_TRUSTED_PROXIES"] == subnet
    on_it = {each for each, service in SERVICES.items() if "front" in service.get("networks", ())}
    assert on_it == {"front", "gateway", "notifier"}
    assert SERVICES["front"]["networks"] == ["front"]
    proxies = TrustedProxies([subnet])
    assert proxies.trusts(str(next(ip_network(subnet).hosts())))
    assert not proxies.trusts("127.0.0.1")


def test_the_front_overwrites_what_clients_say_of_their_address() -> None:
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in FRONT
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in FRONT


def test_each_service_has_replicas_and_the_front_sticks_to_none() -> None:
    assert {name: SERVICES[name]["deploy"]["replicas"] for name in OURS if name != "topology"} == {
        "gateway": 2, "worker": 2, "notifier": 2
    }  # fmt: skip
    assert not [name for name in SERVICES if "container_name" in SERVICES[name]], "a fixed name allows one replica"
    assert not re.search(r"ip_hash|sticky|hash \$", FRONT)


def test_services_run_on_a_read_only_root() -> None:
    for name in OURS:
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


MONITORING: Mapping[str, Any] = yaml.safe_load((DEPLOY / "compose.monitoring.yaml").read_text())["services"]


def test_monitoring_is_published_on_this_machine_alone_from_files_that_there_are() -> None:
    assert set(MONITORING) == {"prometheus", "grafana"}
    for service in MONITORING.values():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z/]+:v?\d[\w.-]*\}", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        sources = [each.partition(":")[0] for each in service["volumes"]]
        assert all((DEPLOY / each).exists() for each in sources if each.startswith("."))


def test_prometheus_scrapes_all_services_on_the_internal_port() -> None:
    [job] = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    [names] = job["dns_sd_configs"]
    assert set(names["names"]) == set(OURS) - {"topology"}
    assert names["port"] == Settings.model_construct().internal.port
    assert {each["target_label"] for each in job["relabel_configs"]} == {"namespace", "pod"}
