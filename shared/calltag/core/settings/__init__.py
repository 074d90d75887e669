"""The settings tree: all values that operators may configure."""

from calltag.core.settings.root import Row, Settings, SettingsError, load_settings, settings_table, unknown_settings

__all__ = ["Row", "Settings", "SettingsError", "load_settings", "settings_table", "unknown_settings"]
