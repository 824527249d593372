"""The version of the package: the one place that holds it."""

VERSION = "0.1.0"
