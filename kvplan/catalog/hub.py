"""Models from a Hugging Face hub: config.json and the index of the weights, never the weights. The only place that imports huggingface_hub.

HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and HF_HUB_CACHE mean what they mean to Hugging Face's own tools.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kvplan.errors import InputError, KvplanError, MissingError

FILES = ("config.json", "model.safetensors.index.json", "hf_quant_config.json")
TIMEOUT_S = 10.0


def fetched(repository: str, *, hint: str = "") -> Path:
    """The config.json of a model, fetched into the Hugging Face cache with what stands beside it. Raises MissingError or InputError."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise InputError(f"{repository}: not in the catalog nor in the local cache, and HF_HUB_OFFLINE forbids to fetch it", hint=hint)
    try:
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub import errors as hub
    except ImportError:
        raise InputError(
            f"{repository}: not in the catalog, and no such file",
            hint=f"{hint} pip install 'kvplan[hub]' lets kvplan fetch its config.json.".strip(),
        ) from None
    if reason := _unreachable(constants.ENDPOINT):  # the client would ask five times more, half a minute long
        raise MissingError(f"{repository}: {_endpoint()} could not be asked ({reason})", hint=hint)
    try:
        config = Path(hf_hub_download(repository, FILES[0], etag_timeout=TIMEOUT_S))
    except Exception as error:  # the client's transport raises errors of its own
        raise _sentence(repository, error, hub, hint) from None
    for name in FILES[1:]:
        try:
            hf_hub_download(repository, name, etag_timeout=TIMEOUT_S)
        except Exception as error:
            if not isinstance(error, hub.EntryNotFoundError):
                raise _sentence(repository, error, hub, hint) from None
    return config


def _unreachable(endpoint: str) -> str:
    """Why the hub's host cannot be connected to; empty where it can, or where a proxy is asked in its place."""
    from urllib.request import getproxies  # a twentieth of a second that nobody else waits for

    parts = urlsplit(endpoint)
    if {"http", "https", "all"} & set(getproxies()) or not parts.hostname:
        return ""
    try:
        socket.create_connection((parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)), timeout=TIMEOUT_S).close()
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _sentence(repository: str, error: Exception, hub: Any, hint: str) -> KvplanError:
    if isinstance(error, hub.GatedRepoError):
        terms = f"accept its terms at {_endpoint()}/{repository} and set HF_TOKEN"
        return MissingError(f"{repository} is gated: the hub gives its files only to those who accepted its terms", hint=terms)
    if isinstance(error, hub.RepositoryNotFoundError):
        return InputError(f"{repository}: {_endpoint()} has no such model, or it is private", hint=hint)
    if isinstance(error, hub.EntryNotFoundError) and not isinstance(error, hub.LocalEntryNotFoundError):
        return InputError(f"{repository}: the model has no config.json", hint=hint)
    if isinstance(error, hub.HFValidationError):
        return InputError(f"{repository}: not the id of a model", hint=hint)
    reason = str(error).strip().split("\n")[0][:160] or type(error).__name__
    return MissingError(f"{repository}: {_endpoint()} could not be asked ({reason})", hint=hint)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "the Hugging Face hub"
