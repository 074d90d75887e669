"""The settings tree: every value that an operator may change."""

from calltag.core.settings.root import Settings, load_settings
from calltag.core.settings.table import Row, settings_table, unknown_settings
from calltag.core.settings.variables import SettingsError

__all__ = ["Row", "Settings", "SettingsError", "load_settings", "settings_table", "unknown_settings"]
