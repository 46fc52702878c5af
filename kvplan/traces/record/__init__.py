"""Traces from what production already writes: logs of engines and caches, stored as salted hashes and lengths, never as text."""
