"""Published weights, from the cache of their library or else from the network.

Cached files are used without network access. Otherwise the server is contacted once, with a short
time-out, because the library's own downloader would retry silently for half a minute. The download is
announced through the logger of this module, which the commands print.
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 5.0
"""Seconds to wait for a server."""

log = logging.getLogger(__name__)


def from_hub(
    repository: str,
    name: str,
    subfolder: str | None = None,
    *,
    revision: str | None = None,
    cache: str | Path | None = None,
) -> Path:
    """A file of the Hugging Face hub.

    Args:
        repository: its id there.
        name: of the file.
        subfolder: its folder in the repository.
        revision: None: the default branch.
        cache: folder of the hub's cache; None: the default one.

    Raises:
        OSError: no connection; huggingface_hub's own errors are OSErrors and ValueErrors.
    """
    import huggingface_hub
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache

    path = f"{subfolder}/{name}" if subfolder else name
    folder = cache or constants.HF_HUB_CACHE
    known = try_to_load_from_cache(repository, path, cache_dir=folder, revision=revision)
    if isinstance(known, str):
        return Path(known)
    if not constants.HF_HUB_OFFLINE:
        address = hf_hub_url(repository, path, revision=revision)
        announce(name, f"{repository} on the Hugging Face hub")
        reach(address)
    with _quiet_hub(huggingface_hub.utils):
        return Path(hf_hub_download(repository, path, revision=revision, cache_dir=folder))


def announce(name: str, source: str) -> None:
    """Announces a download before it begins."""
    log.info("downloading %s from %s", name, source)


def reach(address: str) -> None:
    """Request the head of a file from a server, once.

    Any answer suffices, errors such as 404 or 403 included: the downloader that runs next reports
    them. Proxies of the environment are used.

    Raises:
        ConnectionError: the server cannot be reached.
    """
    request = urllib.request.Request(address, method="HEAD")
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        opener.open(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException) as error:
        reason: Any = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError) and not isinstance(reason, TimeoutError):
            return  # the downloader may use other certificates
        description = "no answer" if isinstance(reason, TimeoutError) else _describe_reason(reason)
        server = urlsplit(address).hostname
        raise ConnectionError(f"no connection to {server}: {description}") from error


def _describe_reason(reason: Any) -> str:
    if isinstance(reason, socket.gaierror):
        return "its name cannot be resolved"
    return str(getattr(reason, "strerror", None) or reason)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        """A redirect counts as an answer."""
        return None


@contextmanager
def _quiet_hub(utils: Any) -> Iterator[None]:
    """Silences the hub's log, as our own error reports the cause; shows progress on terminals only."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    enabled = not utils.are_progress_bars_disabled()
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if enabled and not terminal:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.setLevel(level)
        if enabled and not terminal:
            utils.enable_progress_bars()
