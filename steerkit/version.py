"""The package's version, for those that `steerkit` itself imports."""

__version__ = "0.1.0"
