"""The configuration: what is set, where it was set, and what is wrong with it.

`load` is the loader that serving and `pixxel-gateway check` share. The option classes themselves, with names, bounds
and defaults, are in `gateway.core.options`.
"""

from gateway.settings.digest import digest
from gateway.settings.layers import Fault
from gateway.settings.loading import (
    NO_FILE,
    ConfigurationError,
    Loaded,
    Settings,
    find_file,
    load,
    read_secret,
    schema,
    schema_text,
)

__all__ = [
    "NO_FILE",
    "ConfigurationError",
    "Fault",
    "Loaded",
    "Settings",
    "digest",
    "find_file",
    "load",
    "read_secret",
    "schema",
    "schema_text",
]
