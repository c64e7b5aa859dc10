"""A shared caching gateway in front of Pixxel's asset listings."""

# Here rather than in the package's metadata, which takes longer to read than the rest of the package to import.
__version__ = "0.1.0"
