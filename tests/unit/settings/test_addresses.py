"""A setting with one address or several."""

import pytest

from calltag.core.broker.ports import addresses
from calltag.core.settings import Settings
from calltag.core.settings.root import settings_table


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("amqp://a/", ("amqp://a/",)),
        ("amqp://a/,amqps://b/v", ("amqp://a/", "amqps://b/v")),
        (" amqp://a/ ,\n amqp://b/,", ("amqp://a/", "amqp://b/")),
        ("amqp://u:p,w@a/,amqp://u:p,w@b/", ("amqp://u:p,w@a/", "amqp://u:p,w@b/")),
    ],
)
def test_addresses_have_commas_between(text: str, found: tuple[str, ...]) -> None:
    assert addresses(text) == found


def test_no_password_of_any_address_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLTAG_AMQP__URL", "amqp://u:hunter2@one/,amqp://u:hunter3@two/")
    [shown] = [row.value for row in settings_table(Settings()) if row.variable == "CALLTAG_AMQP__URL"]
    assert shown == "amqp://u:***@one/,amqp://u:***@two/"
