"""Addresses as browsers write them: host names, origins, the public URL.

A browser compares and sends the normal form (lower case, punycode, no default port), so a setting
is converted to that form or refused. A setting that can never match must not look as if it worked.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
# Python's codec replaces these by other letters, browsers keep them: ß, ς and the two joiners.
_DEVIATIONS = frozenset("\u00df\u03c2\u200c\u200d")


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """Where browsers reach the service."""

    scheme: str
    host: str  # with its port, as a Host header names it
    prefix: str  # of every path: empty, or /like/this

    @property
    def origin(self) -> str:
        """The origin of pages from there."""
        return f"{self.scheme}://{self.host}"

    @property
    def name(self) -> str:
        """The host without port and brackets."""
        return host_name(self.host)

    def __str__(self) -> str:
        return f"{self.origin}{self.prefix}/"


def host_name(host: str) -> str:
    """The name in a Host header (`[::1]:5000`, `Example.com:80`, `::1`) in its normal form, without
    port and brackets. Raises ValueError."""
    if _is_ipv6(host):  # a name alone; as a header, an IPv6 address has brackets
        return _ipv6(host)
    found = re.fullmatch(r"(\[[^][]*\]|[^][:]*)(:\d{0,5})?", host, re.ASCII)
    if not found or int((found[2] or "")[1:] or 0) > 65_535:
        raise ValueError(f"{host!r} is not a host")
    return _name(found[1])


def is_loopback(name: str) -> bool:
    """Whether a name or an address can only mean this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def in_url(name: str) -> str:
    """A host name in the form that URLs have: an IPv6 address gets brackets."""
    return f"[{name}]" if ":" in name else name


def origin(text: str) -> str:
    """An origin in the form in which browsers send it. Raises ValueError with the reason."""
    if text == "*":
        raise ValueError("'*' would let every page on the web call here; name the origins")
    if text.lower() == "null":
        raise ValueError(
            "'null' is the origin of every sandboxed page and local file;"
            " serve the page over http and name its origin"
        )
    parts = _split(text, "an origin", "http://localhost:3000")
    scheme, host = _scheme_and_host(parts)
    if parts.path not in ("", "/"):
        raise ValueError(f"{text!r} has a path, an origin has none; write {scheme}://{host}")
    return f"{scheme}://{host}"


def public_url(text: str) -> PublicUrl:
    """The URL that browsers use. Raises ValueError with the reason."""
    parts = _split(text, "a URL", "https://events.example.com/jobquest")
    scheme, host = _scheme_and_host(parts)
    path = parts.path.rstrip("/")
    for segment in path.split("/")[1:]:
        if segment in (".", "..") or not _SEGMENT.fullmatch(segment):
            raise ValueError(
                f"its path {path!r} does not work as a prefix;"
                " use letters, digits, '.', '_', '~' and '-' between slashes"
            )
    return PublicUrl(scheme, host, path)


def secure_url(text: str) -> str:
    """An https address, unchanged; an http one only of this machine. It may have a query, but no
    fragment. Raises ValueError with the reason."""
    if not re.fullmatch(r"[!-~]+", text) or set("#\\") & set(text):
        raise ValueError("it has characters that no such address has")
    parts = _split(text.partition("?")[0], "a URL", "https://id.example.com")
    _, host = _scheme_and_host(parts)
    if parts.scheme == "http" and not is_loopback(host_name(host)):
        raise ValueError("by http, anybody on the way could change what comes; use https")
    return text


def _split(text: str, kind: str, example: str) -> SplitResult:
    try:
        if not text.isprintable() or re.search(r"[\s\\]", text):  # urlsplit drops some of them
            raise ValueError
        parts = urlsplit(text)
        if parts.scheme not in _DEFAULT_PORTS or not parts.netloc:
            raise ValueError
    except ValueError:  # brackets that do not match, too
        raise ValueError(f"{text!r} is not {kind}; write for example {example}") from None
    if "@" in parts.netloc:  # not shown: it may be a password
        raise ValueError(f"a user or password has no place in {kind}; leave it out")
    if "?" in text or "#" in text:
        raise ValueError(f"{text!r} has a query or fragment, {kind} has none; leave it out")
    return parts


def _scheme_and_host(parts: SplitResult) -> tuple[str, str]:
    """Both in their normal form, the default port left out."""
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"{parts.netloc!r} has no usable port; use 1 to 65535")
    bracketed = re.fullmatch(r"(\[.*\]|[^:]*)(:.*)?", parts.netloc)
    if not bracketed:
        raise ValueError(f"{parts.netloc!r} is not a host")
    host = in_url(_name(bracketed[1]))
    if port in (None, _DEFAULT_PORTS[parts.scheme]):
        return parts.scheme, host
    return parts.scheme, f"{host}:{port}"


def _name(host: str) -> str:
    """A host without its port, in the form in which a browser writes it."""
    if host.startswith("["):
        return _ipv6(host[1:-1])
    labels = _ascii(host).split(".")
    named = labels[:-1] if labels[-1] == "" and len(labels) > 1 else labels  # a final dot
    if sum(map(len, labels)) + len(labels) > 254 or not all(map(_is_label, named)):
        raise ValueError(f"{host!r} is not a host name")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", named[-1]):  # a browser reads it as an IPv4 address
        return _ipv4(".".join(named))
    return ".".join(labels)


def _ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    if _DEVIATIONS & set(host):
        raise ValueError(f"{host!r} can be written in two ways; write the one with xn--")
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        raise ValueError(f"{host!r} is not a host name; write its form with xn--") from None


def _is_label(label: str) -> bool:
    if not _LABEL.fullmatch(label):
        return False
    if not label.startswith("xn--"):
        return True
    try:
        return not label[4:].encode().decode("punycode").isascii()
    except (UnicodeError, OverflowError):
        return False


def _ipv4(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError(f"{host!r} is not a host; write an IPv4 address as four numbers") from None


def _is_ipv6(text: str) -> bool:
    try:
        _ipv6(text)
    except ValueError:
        return False
    return True


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None
    if address.scope_id:
        raise ValueError(f"{text!r}: no URL can name an address with a zone")
    if address.ipv4_mapped:  # Python's versions write these differently
        low = int(address.ipv4_mapped)
        return f"::ffff:{low >> 16:x}:{low & 0xFFFF:x}"
    return str(address)
