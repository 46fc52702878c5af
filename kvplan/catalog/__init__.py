"""Names and paths to objects: models, machines, engines, scenarios."""

from kvplan.catalog.engines import OWN, engine, engine_versions
from kvplan.catalog.machines import machine
from kvplan.catalog.models import explained, model
from kvplan.catalog.names import named
from kvplan.catalog.shipped import folder, names, read_text, resolve

__all__ = ["OWN", "engine", "engine_versions", "explained", "folder", "machine", "model", "named", "names", "read_text", "resolve"]
