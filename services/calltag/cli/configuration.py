"""Settings and log of a command: explicit settings win over the defaults of the command."""

from typing import Any

import typer

from calltag.core.settings import Settings, load_settings, unknown_settings
from calltag.core.telemetry.logging import Level, configure_logging


def service_settings(section: str | None = None, port: int | None = None, *, demo: bool = False) -> Settings:
    """Load the settings, and apply the options of the command line. Raises SettingsError."""
    settings = load_settings()
    changes: dict[str, Any] = {}
    if section is not None and port is not None:
        changes[section] = _updated(getattr(settings, section), port=port)
    if demo:
        changes["directory"] = _updated(settings.directory, demo=True)
    return settings.model_copy(update=changes)


def command_settings(name: str, *, warns: bool = True) -> Settings:
    """Load the settings of a command that prints its own errors: it logs nothing unless CALLTAG_LOG__LEVEL is set.

    With `warns`, unknown variables are named on standard error. Raises SettingsError.
    """
    settings = load_settings()
    for sentence in unknown_settings() if warns else ():
        typer.echo(f"calltag: warning: {sentence}", err=True)
    configure_logging(name, form=settings.log.format, level=log_level(settings, "critical"))
    return settings


def log_level(settings: Settings, usual: Level) -> Level:
    """Return the level that is set, or the default of the command."""
    return settings.log.level if "level" in settings.log.model_fields_set else usual


def _updated(section: Any, **changes: object) -> Any:
    return section.model_copy(update=changes)
