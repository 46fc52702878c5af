"""Request traces: read, inspect, convert, generate, and hit rates at every capacity."""

from kvplan.traces.formats import FORMATS
from kvplan.traces.trace import Trace, open_trace

__all__ = ["FORMATS", "Trace", "open_trace"]
