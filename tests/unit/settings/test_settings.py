"""Settings come from the environment and from secrets, and are explained."""

import os
from pathlib import Path

import pytest

from calltag.core.settings import SettingsError, load_settings, settings_table


def test_every_setting_is_described() -> None:
    rows = settings_table()
    assert len(rows) > 50
    assert all(len(row.description) > 10 for row in rows)
    assert all(row.variable.startswith("CALLTAG_") for row in rows)


def test_a_value_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_GATEWAY__MAX_WAIT_S", "7")
    monkeypatch.setenv("CALLTAG_GATEWAY__ALLOWED_ORIGINS", '["https://a.example"]')
    settings = load_settings()
    assert settings.gateway.max_wait_s == 7
    shown = {row.variable: row.value for row in settings_table(settings)}
    assert shown["CALLTAG_GATEWAY__ALLOWED_ORIGINS"] == '["https://a.example"]'
    assert shown["CALLTAG_DIRECTORY__DEMO"] == "false"
    assert shown["CALLTAG_DIRECTORY__FILE"] == ""
    assert shown["CALLTAG_REDIS__URL"] == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CALLTAG_PARTITIONS", "0"), ("CALLTAG_PUBLIC_URL", "x"), ("CALLTAG_GATEWAY__ALLOWED_ORIGINS", "{")],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable if "ORIGINS" not in variable else "gateway"):
        load_settings()


def test_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "CALLTAG_REDIS__URL").write_text("redis://:secret@there/1\n")
    monkeypatch.setenv("CALLTAG_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("CALLTAG_REDIS__URL", raising=False)
    assert load_settings().redis.url.get_secret_value() == "redis://:secret@there/1"
    os.environ.pop("CALLTAG_REDIS__URL")
    monkeypatch.setenv("CALLTAG_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="not a folder"):
        load_settings()
