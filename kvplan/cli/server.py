"""How commands name a running server."""

from __future__ import annotations

from kvplan.errors import InputError

KEY_VARIABLE = "KVPLAN_API_KEY"
"""The variable that holds the key of a server, where no other is named."""


def address(url: str) -> str:
    """The address without a trailing /v1. Raises InputError when it is none."""
    found = url.rstrip("/").removesuffix("/v1")
    if not found.startswith(("http://", "https://")):
        raise InputError(
            f"{url} is not an address", hint=f"write http://{url}" if "://" not in url else "it starts with http:// or https://"
        )
    return found
