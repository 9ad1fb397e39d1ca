"""The one place that holds the version; read by packaging and by every file's provenance."""

__version__ = "0.1.0"
