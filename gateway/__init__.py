"""A shared caching gateway in front of Pixxel's asset listings."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pixxel-gateway")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
