"""Settings: where they come from, what is refused and how that is said."""

import os
from collections import Counter
from pathlib import Path

import pytest
from pydantic import BaseModel

from calltag.core.backends import load_directory
from calltag.core.identity.directory import DirectoryError
from calltag.core.settings import Row, Settings, SettingsError, load_settings, settings_table, unknown_settings
from calltag.core.settings.root import PREFIX, SECRETS_FOLDER, unknown_variables
from calltag.core.settings.sections import Section


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has set."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


def described(model: type[BaseModel]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= {f"{name}.{inner}": text for inner, text in described(field.annotation).items()}
        else:
            found[name] = field.description
    return found


def test_every_setting_is_described_in_a_sentence() -> None:
    texts = described(Settings)
    assert len(texts) > 50
    for name, text in texts.items():
        assert text, name
        assert text.endswith("."), name


def test_the_defaults_are_those_of_a_first_look() -> None:
    settings = load_settings()
    assert settings.amqp.url.get_secret_value() == "amqp://guest:guest@127.0.0.1:5672/"
    assert settings.redis.url.get_secret_value() == "redis://127.0.0.1:6379/0"
    assert (settings.gateway.port, settings.gateway.max_body_bytes, settings.gateway.max_depth) == (8080, 262_144, 16)
    assert (settings.worker.max_call_pairs, settings.worker.max_call_bytes) == (1_000, 65_536)
    assert not settings.directory.demo


def test_the_environment_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_PARTITIONS", "8")
    monkeypatch.setenv("CALLTAG_GATEWAY__PORT", "9000")
    monkeypatch.setenv("calltag_session__secure_cookies", "true")
    monkeypatch.setenv("CALLTAG_GATEWAY_SERVICE_HOST", "10.0.0.1")
    settings = load_settings()
    assert (settings.partitions, settings.gateway.port, settings.session.secure_cookies) == (8, 9000, True)


def test_cookies_for_all_sites_are_for_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_SESSION__SAME_SITE", "none")
    with pytest.raises(SettingsError, match=r"SESSION.*SECURE_COOKIES"):
        load_settings()
    monkeypatch.setenv("CALLTAG_SESSION__SECURE_COOKIES", "true")
    assert load_settings().session.same_site == "none"


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("CALLTAG_GATEWAY__CSRF_PROTECTION", "CALLTAG_SESSION__CSRF_PROTECTION"),
        ("CALLTAG_GATEWAY__ALLOWED_ORIGINS", "CALLTAG_ALLOWED_ORIGINS"),
        ("CALLTAG_NOTIFIER__ALLOWED_ORIGINS", "CALLTAG_ALLOWED_ORIGINS"),
    ],
)
def test_a_former_name_is_told_the_new_one(monkeypatch: pytest.MonkeyPatch, former: str, now: str) -> None:
    monkeypatch.setenv(former, "true")
    with pytest.raises(SettingsError, match=f"^{former}: this setting is {now} now$"):
        load_settings()


@pytest.mark.parametrize(
    ("environment", "are_secure"),
    [
        ({}, False),
        ({"PUBLIC_URL": "https://calltag.example"}, True),
        ({"TLS__CERT_FILE": "/etc/calltag.pem"}, True),
        ({"TLS__CERT_FILE": "/etc/calltag.pem", "SESSION__SECURE_COOKIES": "false"}, False),
        ({"PUBLIC_URL": "https://calltag.example", "SESSION__SECURE_COOKIES": ""}, True),
        ({"SESSION__SECURE_COOKIES": "true"}, True),
    ],
)
def test_with_tls_cookies_are_for_https_only(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], are_secure: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"CALLTAG_{name}", value)
    assert load_settings().cookies_are_secure is are_secure
    monkeypatch.setenv("CALLTAG_SESSION__SAME_SITE", "none")
    if are_secure:
        assert load_settings().session.same_site == "none"
    else:
        with pytest.raises(SettingsError, match=r"^CALLTAG_SESSION: .*SECURE_COOKIES$"):
            load_settings()


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_DIRECTORY__FILE", "")
    monkeypatch.setenv("CALLTAG_GATEWAY__PORT", "")
    settings = load_settings()
    assert settings.directory.file is None
    assert settings.gateway.port == 8080


def test_the_command_line_wins_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_GATEWAY__PORT", "9000")
    monkeypatch.setenv("CALLTAG_GATEWAY__HOST", "0.0.0.0")
    settings = load_settings(gateway={"port": 9001}, partitions=4)
    assert (settings.gateway.port, settings.gateway.host, settings.partitions) == (9001, "0.0.0.0", 4)


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("https://desk.example", ("https://desk.example",)),
        (" https://a.example , http://b:8080,", ("https://a.example", "http://b:8080")),
        (' ["https://a.example", "http://b:8080"]', ("https://a.example", "http://b:8080")),
        ("*", ("*",)),
    ],
)
def test_origins_are_a_json_list_or_have_commas_between(
    monkeypatch: pytest.MonkeyPatch, text: str, origins: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CALLTAG_ALLOWED_ORIGINS", text)
    assert load_settings().allowed_origins == origins
    assert load_settings(allowed_origins=origins).allowed_origins == origins


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CALLTAG_GATEWAY__PORT", "70000", r"^CALLTAG_GATEWAY__PORT: Input should be less than or equal to 65535$"),
        ("CALLTAG_GATEWAY__PORT", "http", r"^CALLTAG_GATEWAY__PORT: Input should be a valid integer"),
        ("CALLTAG_PARTITIONS", "0", r"^CALLTAG_PARTITIONS: Input should be greater than or equal to 1$"),
        ("CALLTAG_REDIS__DEADLINE_S", "inf", r"^CALLTAG_REDIS__DEADLINE_S: Input should be"),
        ("CALLTAG_LOG__FORMAT", "xml", r"^CALLTAG_LOG__FORMAT: Input should be 'auto', 'json' or 'console'$"),
        ("CALLTAG_PUBLIC_URL", "calltag", r"^CALLTAG_PUBLIC_URL: String should match"),
        ("CALLTAG_AMQP__URL", "http://hunter2@x", r"^CALLTAG_AMQP__URL: must begin with amqp:// or amqps://$"),
        ("CALLTAG_AMQP__URL", "amqp://u:hunter2/x@h", r"^CALLTAG_AMQP__URL: host and port are not well formed"),
        (
            "CALLTAG_AMQP__URL",
            "amqp://a/,amqp://u:hunter2/x@h",
            r"^CALLTAG_AMQP__URL: host and port are not well formed",
        ),
        ("CALLTAG_AMQP__URL", "amqp://u:hunter2@one,two/", r"^CALLTAG_AMQP__URL: host and port are not well formed"),
        ("CALLTAG_AMQP__URL", "amqp://u:hunter2@one:1,two:2/", r"^CALLTAG_AMQP__URL: host and port are not well"),
        ("CALLTAG_REDIS__URL", "redis://h:hunter2", r"^CALLTAG_REDIS__URL: host and port are not well formed"),
        ("CALLTAG_REDIS__URL", "hunter2", r"^CALLTAG_REDIS__URL: must begin with redis:// or rediss:// or unix://$"),
        ("CALLTAG_ALLOWED_ORIGINS", "*,hunter2", r"^CALLTAG_ALLOWED_ORIGINS: String should match"),
        ("CALLTAG_ALLOWED_ORIGINS", "[hunter2", r"^CALLTAG_ALLOWED_ORIGINS: begins like a JSON list"),
        ("CALLTAG_PUBLIC_URL", "https://desk:hunter2", r"^CALLTAG_PUBLIC_URL: must be scheme, host and port"),
        ("CALLTAG_ALLOWED_ORIGINS", "https://a:hunter2", r"^CALLTAG_ALLOWED_ORIGINS: must be scheme"),
        ("CALLTAG_GATEWAY__PROT", "1", r"^CALLTAG_GATEWAY__PROT: there is no such setting$"),
        ("CALLTAG_GATWAY__PORT", "1", r"^CALLTAG_GATWAY__PORT: there is no section GATWAY; is CALLTAG_GATEWAY meant"),
        ("CALLTAG_XYZ__PORT", "1", r"^CALLTAG_XYZ__PORT: there is no section XYZ$"),
        ("CALLTAG_GATEWAY", "hunter2", r"^settings cannot be read: .*gateway"),
        ("CALLTAG_SECRETS_DIR", "/nowhere/at/all", r"^CALLTAG_SECRETS_DIR: /nowhere/at/all is not a folder$"),
    ],
)
def test_an_error_names_the_variable_and_the_limit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message) as error:
        load_settings()
    assert "hunter2" not in str(error.value)


def test_all_errors_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_GATEWAY__PORT", "-1")
    monkeypatch.setenv("CALLTAG_WORKER__PREFETCH", "0")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "CALLTAG_GATEWAY__PORT",
        "CALLTAG_WORKER__PREFETCH",
    ]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALLTAG_SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_file_is_a_setting(secrets: Path) -> None:
    (secrets / "CALLTAG_AMQP__URL").write_text("amqp://calltag:hunter2@rabbit/\n")
    (secrets / "calltag_partitions").write_text("8")
    (secrets / "tls.key").write_text("not a setting")
    settings = load_settings()
    assert settings.amqp.url.get_secret_value() == "amqp://calltag:hunter2@rabbit/"
    assert settings.partitions == 8
    assert "CALLTAG_AMQP__URL" not in os.environ


def test_a_file_may_be_mounted_as_kubernetes_does(secrets: Path) -> None:
    (secrets / "..2026").mkdir()
    (secrets / "..2026" / "CALLTAG_AMQP__URL").write_text("amqp://rabbit/")
    (secrets / "..data").symlink_to("..2026")
    (secrets / "CALLTAG_AMQP__URL").symlink_to("..data/CALLTAG_AMQP__URL")
    assert load_settings().amqp.url.get_secret_value() == "amqp://rabbit/"


def test_a_variable_wins_over_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "CALLTAG_AMQP__URL").write_text("amqp://file/")
    (secrets / "CALLTAG_AMQP__PREFIX").write_text("fromfile")
    monkeypatch.setenv("CALLTAG_AMQP__URL", "amqp://variable/")
    settings = load_settings()
    assert (settings.amqp.url.get_secret_value(), settings.amqp.prefix) == ("amqp://variable/", "fromfile")


def test_a_file_that_cannot_be_read(secrets: Path) -> None:
    (secrets / "CALLTAG_AMQP__URL").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"^CALLTAG_SECRETS_DIR: a file cannot be read"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("CALLTAG_GATEWAY_PORT", "CALLTAG_GATEWAY__PORT"),
        ("CALLTAG_PARTITION", "CALLTAG_PARTITIONS"),
        ("CALLTAG_DRAIN_DELAY", "CALLTAG_DRAIN_DELAY_S"),
        ("CALLTAG_AMQP_TLS_CA_FILE", "CALLTAG_AMQP__TLS__CA_FILE"),
        ("calltag_log_level", "CALLTAG_LOG__LEVEL"),
        ("CALLTAG_SECRET_DIR", SECRETS_FOLDER),
        ("CALLTAG_COLOUR", None),
    ],
)
def test_a_variable_that_is_no_setting_is_named_with_the_likely_one(
    monkeypatch: pytest.MonkeyPatch, name: str, likely: str | None
) -> None:
    monkeypatch.setenv(name, "8080")
    hint = f"; is {likely} meant?" if likely else ""
    assert unknown_settings() == [f"{name} is not a setting and has no effect{hint}"]


def test_a_file_that_is_no_setting_is_named_with_the_likely_one(secrets: Path) -> None:
    (secrets / "CALLTAG_REDIS_URL").write_text("redis://redis/0")
    (secrets / "tls.key").write_text("not a setting")
    assert unknown_settings() == ["CALLTAG_REDIS_URL is not a setting and has no effect; is CALLTAG_REDIS__URL meant?"]
    (secrets / "CALLTAG_REDS__URL").write_text("redis://redis/0")
    with pytest.raises(SettingsError, match=r"^CALLTAG_REDS__URL: there is no section REDS; is CALLTAG_REDIS meant"):
        load_settings()


def test_what_kubernetes_and_the_tests_set_is_not_taken_for_a_setting() -> None:
    links = {
        "CALLTAG_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "CALLTAG_GATEWAY_SERVICE_PORT": "80",
        "CALLTAG_GATEWAY_SERVICE_PORT_HTTP": "80",
        "CALLTAG_GATEWAY_PORT": "tcp://10.0.0.1:80",
        "CALLTAG_GATEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CALLTAG_GATEWAY_PORT_80_TCP_PROTO": "tcp",
        "CALLTAG_GATEWAY_PORT_80_TCP_PORT": "80",
        "CALLTAG_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "CALLTAG_SERVICE_HOST": "10.0.0.1",
        "CALLTAG_PORT": "tcp://10.0.0.1:80",
        "CALLTAG_PORT_53_UDP_ADDR": "10.0.0.1",
        "CALLTAG_TEST_CHROMIUM": "/usr/bin/chromium",
    }
    assert unknown_variables(links, []) == []


def test_sections_and_settings_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CALLTAG_GATEWAY": "{}", "CALLTAG_PARTITIONS": "8", "calltag_public_url": "http://a"}.items():
        monkeypatch.setenv(name, value)
    assert unknown_settings() == []


@pytest.mark.parametrize("section", ["gateway", "notifier"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "desk.example.com", ""])
def test_the_demo_is_not_served_to_the_network_unless_that_is_said(section: str, host: str) -> None:
    listening = {section: {"host": host}}
    with pytest.raises(DirectoryError, match=rf"CALLTAG_{section.upper()}__HOST is .*DEMO_ON_NETWORK=true"):
        load_directory(load_settings(directory={"demo": True}, **listening))
    assert load_directory(load_settings(directory={"demo": True, "demo_on_network": True}, **listening)).users
    assert not load_directory(load_settings(**listening)).users


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_demo_is_served_on_the_machine_itself(host: str) -> None:
    assert load_directory(load_settings(directory={"demo": True}, gateway={"host": host})).users


def rows(settings: Settings | None = None) -> dict[str, Row]:
    return {row.variable: row for row in settings_table(settings)}


def test_the_table_has_every_setting_once() -> None:
    table = settings_table()
    assert [row.variable for row in table] == [PREFIX + name.upper().replace(".", "__") for name in described(Settings)]
    assert all(row.description for row in table)


def test_few_settings_are_for_every_day_and_each_of_them_exists() -> None:
    everyday = [row for row in settings_table() if row.is_everyday]
    assert 40 <= len(everyday) <= 60
    named = sum(len(section.EVERYDAY) * times for section, times in sections_with_everyday().items())
    assert len(everyday) == named


def sections_with_everyday() -> Counter[type[Section] | type[Settings]]:
    """Sections, each as many times as the tree has it."""
    found: Counter[type[Section] | type[Settings]] = Counter([Settings])
    waiting: list[type[BaseModel]] = [Settings]
    while waiting:
        for field in waiting.pop().model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                found[field.annotation] += 1
                waiting.append(field.annotation)
    return found


def test_what_is_set_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_LOGIN__WINDOW_S", "60")
    assert [row.variable for row in settings_table(load_settings()) if row.is_set] == ["CALLTAG_LOGIN__WINDOW_S"]


def test_the_table_shows_defaults_whatever_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_GATEWAY__PORT", "9000")
    assert rows()["CALLTAG_GATEWAY__PORT"].value == "8080"
    assert rows(load_settings())["CALLTAG_GATEWAY__PORT"].value == "9000"


def test_values_stand_as_they_would_be_set() -> None:
    settings = load_settings(allowed_origins=("https://a.example", "https://b.example"))
    table = rows(settings)
    assert table["CALLTAG_ALLOWED_ORIGINS"].value == '["https://a.example","https://b.example"]'
    assert table["CALLTAG_DIRECTORY__FILE"].value == ""
    assert table["CALLTAG_DIRECTORY__DEMO"].value == "false"
    assert table["CALLTAG_REDIS__DEADLINE_S"].value == "1.0"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:hunter2@redis:6379/0", "redis://user:***@redis:6379/0"),
        ("redis://:hun:t@er2@redis/0", "redis://:***@redis/0"),
        ("redis://user@redis/0", "redis://user@redis/0"),
        ("redis://redis/0?a=b&password=hunter2&c=d", "redis://redis/0?a=b&password=***&c=d"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    settings = load_settings(redis={"url": url})
    assert rows(settings)["CALLTAG_REDIS__URL"].value == shown
    assert "hunter2" not in repr(settings)
