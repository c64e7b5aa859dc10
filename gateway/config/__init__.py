"""The configuration: options, their sources, and the checks of their values."""
