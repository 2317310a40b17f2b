"""Recordings from elsewhere: http(s) from hosts that the operator allows, and never from inside the network.

A name is resolved once, every address that it has is checked, and the connection goes to the checked address: a name
that answers differently the second time (DNS rebinding) gains nothing. Redirects are read here and checked again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

import httpx

from mllm.serve.errors import ApiError

PORTS = {"http": 80, "https": 443}
MOST_REDIRECTS = 3
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host by the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in found))


def is_public(address: str) -> bool:
    """Whether an address is of the open internet; those that carry an IPv4 one inside are judged by that."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(one.is_global and not one.is_multicast for one in (parsed, *_inside(parsed)))


def _inside(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 one stands for: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in carried if one is not None]


class Fetcher:
    """Fetches from allowed hosts.

    Args:
        hosts: `name` for the usual port of http and https, or `name:port`. Case does not matter.
        max_bytes: of what is fetched.
        seconds: for all of it, redirects included.
        resolve: name and port to addresses.
        allowed: whether an address may be connected to.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        seconds: float,
        *,
        resolve: Resolve = resolve,
        allowed: Callable[[str], bool] = is_public,
    ):
        self.hosts = {host.lower().rstrip(".") for host in hosts}
        self.max_bytes, self.seconds = max_bytes, seconds
        self._resolve, self._allowed = resolve, allowed

    async def fetch(self, url: str) -> bytes:
        """The bytes at an address.

        Raises ApiError: a scheme, host or address that is not allowed, another status than 200, too large, too slow.
        """
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    content, elsewhere = await self._get(httpx.URL(url))
                    if elsewhere is None:
                        return content
                    url = elsewhere
        except TimeoutError as error:
            raise _refused(f"it took more than {self.seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise _refused(f"{type(error).__name__} on the way") from error
        raise _refused(f"more than {MOST_REDIRECTS} redirects")

    async def _get(self, url: httpx.URL) -> tuple[bytes, str | None]:
        """Content, or the address that it has moved to."""
        address = await self._checked(url)
        host = url.raw_host.decode()
        name = url.netloc.decode()
        # The connection goes to the address; certificate and Host are those of the name.
        pinned = url.copy_with(host=address, userinfo=b"")
        headers = {"host": name, "accept": "audio/*, application/octet-stream", "accept-encoding": "identity"}
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self.seconds) as client,
            client.stream("GET", pinned, headers=headers, extensions={"sni_hostname": host}) as response,
        ):
            if response.is_redirect:
                return b"", str(url.join(response.headers["location"]))
            if response.status_code != 200:
                raise _refused(f"the host answered {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _refused("the host sent it compressed, which was not asked for")
            return await self._read(response), None

    async def _read(self, response: httpx.Response) -> bytes:
        stated = response.headers.get("content-length", "")
        too_large = f"more than {self.max_bytes / 1e6:g} MB"
        if stated.isdigit() and int(stated) > self.max_bytes:
            raise _refused(too_large)
        content = bytearray()
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > self.max_bytes:
                raise _refused(too_large)
        return bytes(content)

    async def _checked(self, url: httpx.URL) -> str:
        """An address of the host that may be connected to."""
        if url.scheme not in PORTS:
            raise _refused(f"its scheme is {url.scheme or 'missing'!r}, not https")
        if url.userinfo:
            raise _refused("it holds a user name or password")
        host = url.host.lower().rstrip(".")
        port = url.port or PORTS[url.scheme]
        if f"{host}:{port}" not in self.hosts and not (host in self.hosts and port == PORTS[url.scheme]):
            raise _refused("its host is not one that this server fetches from (`mllm serve --audio-host`)")
        try:
            found = await self._resolve(host, port)
        except OSError as error:
            raise _refused("its host has no address") from error
        if not found or not all(map(self._allowed, found)):
            raise _refused("its host is not on the open internet")
        return found[0]


def _refused(why: str) -> ApiError:
    return ApiError(f"the recording could not be fetched: {why}; send it as input_audio instead", code="invalid_url")
