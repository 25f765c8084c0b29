"""Hosts, origins and the public URL: each in the form that browsers send, or refused."""

from __future__ import annotations

import pytest

from jobquest import addresses


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTP://LocalHost:3000", "http://localhost:3000"),
        ("http://front.example:80", "http://front.example"),
        ("https://front.example:443/", "https://front.example"),
        ("https://front.example:80", "https://front.example:80"),
        ("http://front.example:", "http://front.example"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://BÜCHER.example:8443", "https://xn--bcher-kva.example:8443"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("http://[::FFFF:127.0.0.1]", "http://[::ffff:7f00:1]"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://front.example.", "http://front.example."),
    ],
)
def test_an_origin_is_brought_to_the_form_that_browsers_send(written: str, sent: str) -> None:
    assert addresses.origin(written) == sent


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("*", "every page"),
        ("null", "sandboxed"),
        ("NULL", "sandboxed"),
        ("file://", "not an origin"),
        ("localhost:3000", "http://localhost:3000"),
        ("//localhost:3000", "not an origin"),
        ("ftp://front.example", "not an origin"),
        ("http://", "not an origin"),
        ("http:///app", "not an origin"),
        ("http://front.example/app", "write http://front.example"),
        ("http://front.example//", "write http://front.example"),
        ("http://front.example?", "query"),
        ("http://front.example/#", "fragment"),
        ("http://me:secret@front.example", "leave it out"),
        ("http://front.example:0", "port"),
        ("http://front.example:65536", "port"),
        ("http://front.example:http", "port"),
        ("http://front.example:３000", "port"),
        ("http://*.front.example", "not a host"),
        ("http://front..example", "not a host"),
        ("http://front_%41.example", "not a host"),
        ("http://fro nt.example", "not an origin"),
        ("http://front\t.example", "not an origin"),
        ("http://front.example\\", "not an origin"),
        ("http://127.1", "four numbers"),
        ("http://2130706433", "four numbers"),
        ("http://0x7f.0.0.1", "four numbers"),
        ("http://127.0.0.256", "four numbers"),
        ("http://[::1", "not an origin"),
        ("http://[::1%25lo]", "zone"),
        ("http://straße.example", "xn--"),
        ("http://xn--\u00fc.example", "not a host"),
        ("http://" + "a" * 64 + ".example", "not a host"),
    ],
)
def test_an_origin_that_could_never_match_is_refused(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("*", r"\*")) as refused:
        addresses.origin(written)
    assert "secret" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_the_public_url_has_an_origin_a_host_and_a_prefix() -> None:
    url = addresses.public_url("HTTPS://Events.Example.com:443/jobquest/")
    assert (url.scheme, url.host, url.prefix) == ("https", "events.example.com", "/jobquest")
    assert (url.origin, url.name) == ("https://events.example.com", "events.example.com")
    assert str(url) == "https://events.example.com/jobquest/"
    at_a_root = addresses.public_url("http://[::1]:8080")
    assert (at_a_root.host, at_a_root.name, at_a_root.prefix) == ("[::1]:8080", "::1", "")
    assert addresses.public_url("https://e.example/a/b-c.d~e_f").prefix == "/a/b-c.d~e_f"


@pytest.mark.parametrize(
    "written",
    [
        "events.example.com",
        "events.example.com/jobquest",
        "ws://events.example.com",
        "https://events.example.com/?a=1",
        "https://events.example.com/#top",
        "https://me@events.example.com",
        "https://events.example.com/a//b",
        "https://events.example.com/a/../b",
        "https://events.example.com/a%2fb",
        "https://events.example.com/jöb",
        "https://events.example.com:port/",
        "https:///jobquest",
    ],
)
def test_a_public_url_that_no_browser_could_use_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r".+[;:]? .+"):
        addresses.public_url(written)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:5000", "localhost"),
        ("127.0.0.1:5000", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[::1]:5000", "::1"),
        ("[0:0:0:0:0:0:0:1]:5000", "::1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
    ],
)
def test_a_host_is_compared_by_its_name_alone(header: str, name: str) -> None:
    assert addresses.host_name(header) == name


@pytest.mark.parametrize("header", ["", ":5000", "[::1", "a:b", "a b", "a/b", "a@b", "a,b", "é\0"])
def test_what_is_no_host_has_no_name(header: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        addresses.host_name(header)


def test_an_ipv6_address_gets_brackets_in_a_url() -> None:
    assert addresses.in_url("::1") == "[::1]"
    assert addresses.in_url("localhost") == "localhost"
