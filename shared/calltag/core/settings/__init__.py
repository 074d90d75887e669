"""The settings tree: all values that operators may configure."""

from calltag.core.settings.root import Settings, load_settings
from calltag.core.settings.table import Row, settings_table, unknown_settings
from calltag.core.settings.variables import SettingsError

__all__ = ["Row", "Settings", "SettingsError", "load_settings", "settings_table", "unknown_settings"]
