"""RFC 9113 §8: what a request may look like, and what must never become of one in an HTTP/1.1 upstream."""

import json

from connection import NotApplicable
from frames import *
from table import *


def request(id, section, what, outcome=None, *, origin="nothing", end=True, body=(), law="rfc", **fields):
    """A case of one request; `fields` go to `Connection.fields`, `body` is what comes behind the head."""

    async def run(c):
        made = {name: value(c) if callable(value) else value for name, value in fields.items()}
        pieces = body(c) if callable(body) else body
        await c.send(headers(1, c.fields(**made), end_stream=end and not pieces), *pieces)

    row(id, section, what, outcome or malformed(), run, origin=origin, law=law)


def whole(id, section, what, make, outcome=None, *, origin="nothing", law="rfc"):
    """A case whose field list is made from a right one."""

    async def run(c):
        await c.send(headers(1, make(c.fields())))

    row(id, section, what, outcome or malformed(), run, origin=origin, law=law)


def smuggled(c):
    return b"/smuggled?case=" + c.token.encode()


def second_request(c):
    return b"GET " + smuggled(c) + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"


# ---- §8.1 a message

request("message.second_headers", "9113 §8.1", "a second HEADERS without END_STREAM", method="POST",
        path="/echo", body=lambda c: [data(1, b"x"), headers(1, [("x-trailer", "1")], end_stream=False)])
request("message.trailers_twice", "9113 §8.1, §5.1", "DATA behind trailers", stream_error(STREAM_CLOSED), method="POST",
        path="/hold", body=lambda c: [headers(1, [("x-trailer", "1")]), data(1, b"x", True)])
request("message.pseudo_in_trailers", "9113 §8.1", "a pseudo-field in trailers", method="POST", path="/echo",
        body=lambda c: [data(1, b"x"), headers(1, [(":method", "GET")])])
request("message.upper_case_in_trailers", "9113 §8.2", "an upper-case name in trailers", method="POST", path="/echo",
        body=lambda c: [data(1, b"x"), headers(1, [("X-Trailer", "1")])])
request("message.te_in_trailers", "9113 §8.2.2", "transfer-encoding in trailers", method="POST", path="/echo",
        body=lambda c: [data(1, b"x"), headers(1, [("transfer-encoding", "chunked")])])
request("message.lines_in_trailers", "9113 §8.2.1", "CR LF in a trailer", method="POST", path="/echo",
        body=lambda c: [data(1, b"x"), headers(1, [("x-trailer", b"1\r\n\r\n" + second_request(c))])])

# ---- §8.1.1 Content-Length

for name, what, length, body, end in [
    ("too_short", "content-length 5 with 10 bytes", "5", b"0123456789", True),
    ("too_long", "content-length 20 with 10 bytes", "20", b"0123456789", True),
    ("without_body", "content-length 5 and END_STREAM on HEADERS", "5", None, True),
    ("zero_with_body", "content-length 0 with 10 bytes", "0", b"0123456789", True),
    ("short_smuggling", "content-length 0 and a request as the body", "0", "request", True),
]:
    request(f"length.{name}", "9113 §8.1.1", what, method="POST", more=[("content-length", length)],
            # What says that it is empty is whole with its head.
            origin="any" if length == "0" else "nothing",
            body=(lambda c, body=body: [] if body is None else [data(1, second_request(c) if body == "request" else body, True)]))
request("length.sum_too_long", "9113 §8.1.1", "content-length 5 with 3 and 3 bytes in two frames", method="POST",
        more=[("content-length", "5")], body=[data(1, b"abc"), data(1, b"def", True)])
request("length.sum_too_short", "9113 §8.1.1", "content-length 9 with 3 and 3 bytes in two frames", method="POST",
        more=[("content-length", "9")], body=[data(1, b"abc"), data(1, b"def", True)])
request("length.short_by_trailers", "9113 §8.1.1", "content-length 9 with 3 bytes and trailers", method="POST",
        more=[("content-length", "9")], body=[data(1, b"abc"), headers(1, [("x-trailer", "1")])])
for name, value in [
    ("plus", "+3"), ("minus", "-3"), ("hexadecimal", "0x3"), ("letters", "three"), ("empty", ""), ("list_of_two", "3, 4"),
    ("space_within", "3 3"), ("too_large", "99999999999999999999999"), ("fraction", "3.0"),
]:
    request(f"length.{name}", "9113 §8.1.1, 9110 §8.6", f"content-length `{value}` with 3 bytes", method="POST",
            more=[("content-length", value)], body=[data(1, b"abc", True)])
request("length.two_values", "9113 §8.1.1, 9110 §8.6", "two content-length fields that differ", method="POST",
        more=[("content-length", "3"), ("content-length", "4")], body=[data(1, b"abc", True)])
request("length.same_twice", "9110 §8.6", "two content-length fields with the same value", malformed() | answered(),
        origin="any", method="POST", more=[("content-length", "3"), ("content-length", "3")], body=[data(1, b"abc", True)])
request("length.right", "9113 §8.1.1", "content-length 6 with 3 and 3 bytes", answered(), origin="one", method="POST",
        more=[("content-length", "6")], body=[data(1, b"abc"), data(1, b"def", True)])
request("length.zero_on_get", "9113 §8.1.1", "GET with content-length 0", answered(), origin="one",
        more=[("content-length", "0")])

# ---- §8.2.1 names and values

for name, field in [
    ("upper_case", b"X-Upper"), ("upper_case_last", b"x-uppeR"), ("empty", b""), ("space", b"x y"), ("space_before", b" x"),
    ("space_behind", b"x "), ("tab", b"x\ty"), ("nul", b"x\0y"), ("cr", b"x\ry"), ("lf", b"x\ny"), ("delete", b"x\x7fy"),
    ("beyond_ascii", b"x\xc3\xa4"), ("colon_within", b"x:y"), ("colon_behind", b"x:"),
]:
    whole(f"name.{name}", "9113 §8.2.1", f"a field name {field!r}", lambda fields, field=field: fields + [(field, b"1")])
for name, field in [("parenthesis", b"x(y)"), ("quote", b'x"y'), ("slash", b"x/y")]:
    whole(f"name.{name}", "9110 §5.1, ours", f"a field name {field!r}, which is no token",
          lambda fields, field=field: fields + [(field, b"1")], law="gateway")
for name, value in [
    ("nul", b"a\0b"), ("cr", b"a\rb"), ("lf", b"a\nb"), ("crlf", b"a\r\nb"), ("lf_behind", b"a\n"), ("cr_before", b"\ra"),
    ("space_before", b" a"), ("space_behind", b"a "), ("tab_before", b"\ta"), ("tab_behind", b"a\t"), ("folded", b"a\r\n b"),
]:
    whole(f"value.{name}", "9113 §8.2.1", f"a field value {value!r}", lambda fields, value=value: fields + [("x-value", value)])
for name, value in [("control", b"a\x01b"), ("delete", b"a\x7fb"), ("escape", b"a\x1b[2Jb")]:
    whole(f"value.{name}", "9110 §5.5, ours", f"a field value {value!r}",
          lambda fields, value=value: fields + [("x-value", value)], law="gateway")
whole("value.empty", "9110 §5.5", "an empty field value", lambda fields: fields + [("x-value", "")], answered(), origin="one")
whole("value.obs_text", "9110 §5.5", "a field value beyond ASCII, with a tab within",
      lambda fields: fields + [("x-value", b"\xc3\xa4\tb")], answered() | Status(400, 400), origin="any")

# ---- §8.2.2 fields that concern a connection

for name, value in [
    ("connection", "keep-alive"), ("connection", "close"), ("connection", "x-value"), ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"), ("transfer-encoding", "chunked"), ("transfer-encoding", "identity"),
    ("transfer-encoding", "gzip, chunked"), ("upgrade", "websocket"), ("upgrade", "h2c"), ("te", "gzip"),
    ("te", "trailers, gzip"), ("te", "trailers;q=0.5"), ("te", "chunked"),
]:
    word = "".join(letter if letter.isalnum() else "_" for letter in f"{name}.{value}")
    whole(f"connection_field.{word}", "9113 §8.2.2", f"{name}: {value}", lambda fields, pair=(name, value): fields + [pair])
whole("connection_field.te_trailers", "9113 §8.2.2", "te: trailers", lambda fields: fields + [("te", "trailers")], answered(),
      origin="one")

# ---- §8.3 pseudo-fields

whole("pseudo.unknown", "9113 §8.3", "an unknown pseudo-field", lambda fields: [(":unknown", "1")] + fields)
whole("pseudo.bare_colon", "9113 §8.3", "a field whose name is `:`", lambda fields: [(":", "1")] + fields)
whole("pseudo.status", "9113 §8.3", "`:status` in a request", lambda fields: [(":status", "200")] + fields)
whole("pseudo.upper_case", "9113 §8.3", "`:Path` beside `:path`", lambda fields: [(":Path", "/x")] + fields)
whole("pseudo.behind_a_field", "9113 §8.3", "a pseudo-field behind a field",
      lambda fields: fields[:3] + [("x-first", "1")] + fields[3:])
whole("pseudo.unknown_behind", "9113 §8.3", "an unknown pseudo-field behind the fields", lambda fields: fields + [(":x", "1")])
for name in ("method", "scheme", "path"):
    request(f"pseudo.no_{name}", "9113 §8.3.1", f"no `:{name}`", drop=(":" + name,))
for name, value in [("method", "GET"), ("scheme", "https"), ("path", "/other"), ("authority", "b.example")]:
    whole(f"pseudo.{name}_twice", "9113 §8.3.1, §8.3", f"`:{name}` twice",
          lambda fields, pair=(":" + name, value): [pair] + fields)
whole("pseudo.method_twice_same", "9113 §8.3.1", "`:method` twice with the same value",
      lambda fields: [(":method", "GET")] + fields)
whole("pseudo.none", "9113 §8.3.1", "no pseudo-field at all", lambda fields: fields[4:])
whole("pseudo.other_order", "9113 §8.3", "the pseudo-fields in the reverse order",
      lambda fields: fields[:4][::-1] + fields[4:], answered(), origin="one")

# `:method`
for name, value in [
    ("empty", b""), ("space", b"GET /"), ("crlf", b"GET\r\nx: y"), ("nul", b"GE\0T"), ("tab", b"GET\t"), ("colon", b"GET:"),
    ("beyond_ascii", b"G\xc3\x8bT"), ("slash", b"GET/"),
]:
    request(f"method.{name}", "9113 §8.3.1, 9110 §9.1", f"`:method` of {value!r}",
            malformed() | Status(501, 501), method=value)
request("method.whole_request", "9113 §10.3", "a request within `:method`", malformed() | Status(501, 501),
        method=lambda c: b"GET " + smuggled(c) + b" HTTP/1.1\r\nHost: a.example\r\n\r\nGET")

# `:path`
for name, value in [
    ("empty", b""), ("no_slash", b"ok"), ("space", b"/ok x"), ("space_before", b" /ok"), ("space_behind", b"/ok "),
    ("crlf", b"/ok\r\nx: y"), ("lf", b"/ok\nx"), ("cr", b"/ok\rx"), ("nul", b"/ok\0"), ("tab", b"/ok\tx"), ("delete", b"/ok\x7f"),
    ("control", b"/ok\x01"), ("asterisk_get", b"*"), ("absolute", b"http://a.example/ok"), ("absolute_https", b"https://a.example/ok"),
    ("question_first", b"?a=b"),
]:
    request(f"path.{name}", "9113 §8.3.1, 9110 §7.1", f"`:path` of {value!r}", path=value)
request("path.fragment", "9113 §8.3.1, 3986 §3.5", "`:path` with a fragment", path=b"/ok#fragment", law="gateway")
request("path.beyond_ascii", "9113 §8.3.1, 3986 §2", "`:path` beyond ASCII", path=b"/ok\xc3\xa4", law="gateway")
request("path.request_line", "9113 §10.3", "a request within `:path`",
        path=lambda c: b"/ok HTTP/1.1\r\nHost: a.example\r\n\r\nGET " + smuggled(c))
request("path.version", "9113 §10.3", "` HTTP/1.1` and a field within `:path`, with bare LF",
        path=lambda c: b"/ok HTTP/1.1\nHost: a.example\n\nGET " + smuggled(c))
request("path.tab_request", "9113 §10.3", "a request within `:path`, with tabs for spaces",
        path=lambda c: b"/ok\tHTTP/1.1\r\n\r\nGET\t" + smuggled(c))
request("path.asterisk_options", "9113 §8.3.1", "OPTIONS with `:path` of `*`", answered() | answered(204) | Status(400, 499),
        origin="any", method="OPTIONS", path=b"*")

# `:scheme`
for name, value in [("empty", b""), ("space", b"ht tp"), ("crlf", b"http\r\nx: y"), ("colon", b"http://"), ("nul", b"http\0"),
                    ("digit_first", b"1http")]:
    request(f"scheme.{name}", "9113 §8.3.1, 3986 §3.1", f"`:scheme` of {value!r}", scheme=value)
request("scheme.injection", "9113 §10.3", "a URL within `:scheme`", scheme=b"https://evil.example/?")
request("scheme.other", "9113 §8.3.1, ours", "`:scheme` of ftp", refused(), scheme=b"ftp", law="gateway")

# `:authority` and Host
for name, value in [
    ("userinfo", b"user@a.example"), ("userinfo_password", b"user:secret@a.example"), ("crlf", b"a.example\r\nx: y"),
    ("space", b"a.example b.example"), ("path", b"a.example/other"), ("nul", b"a.example\0"), ("question", b"a.example?x"),
    ("fragment", b"a.example#x"), ("port_letters", b"a.example:http"), ("port_large", b"a.example:99999"), ("at", b"@"),
    ("list", b"a.example,b.example"), ("tab", b"a.example\t"),
]:
    request(f"authority.{name}", "9113 §8.3.1, 3986 §3.2", f"`:authority` of {value!r}", authority=value,
            law="rfc" if name in ("crlf", "nul", "tab") else "gateway")
request("authority.request", "9113 §10.3", "a request within `:authority`",
        authority=lambda c: b"a.example\r\n\r\n" + second_request(c))
request("authority.none", "9113 §8.3.1, 9110 §7.2", "neither `:authority` nor Host", authority=None, law="gateway")
request("authority.empty", "9113 §8.3.1, 9110 §4.2.1", "an empty `:authority` and no Host", authority=b"",
        law="gateway")
request("authority.host_differs", "9113 §8.3.1", "a Host that differs from `:authority`", more=[("host", "other.example")],
        law="gateway")


async def with_host(c, **pseudo):
    await c.send(headers(1, c.fields(more=[("host", c.target.authority)], **pseudo)))


row("authority.host_same", "9113 §8.3.1", "a Host that is `:authority`", answered(), lambda c: with_host(c), origin="one")
row("authority.host_only", "9113 §8.3.1", "a Host and no `:authority`", answered(), lambda c: with_host(c, authority=None),
    origin="one")


@case("authority.host_twice", "9110 §7.2", "two Host fields and no `:authority`", "malformed", origin="nothing", law="gateway")
async def _(c):
    host = ("host", c.target.authority)
    await c.send(headers(1, c.fields(authority=None, more=[host, ("host", "other.example")])))
    return malformed()


@case("authority.host_wins_not", "9113 §8.3.1", "`:authority` and two Host fields, the second of which is another",
      "malformed", origin="nothing", law="gateway")
async def _(c):
    await c.send(headers(1, c.fields(more=[("host", c.target.authority), ("host", "other.example")])))
    return malformed()


# ---- what must not become a second request, or another framing, in HTTP/1.1

whole("smuggling.te_chunked", "9113 §8.2.2, §10.3", "H2.TE: transfer-encoding: chunked", lambda fields: fields + [
    ("transfer-encoding", "chunked")])
request("smuggling.te_chunked_body", "9113 §8.2.2, §10.3", "H2.TE: chunked, `0` and a request as the body", method="POST",
        more=[("transfer-encoding", "chunked")], body=lambda c: [data(1, b"0\r\n\r\n" + second_request(c), True)])
request("smuggling.te_and_cl", "9113 §8.2.2, §10.3", "both transfer-encoding and content-length", method="POST",
        more=[("transfer-encoding", "chunked"), ("content-length", "5")], body=lambda c: [data(1, b"0\r\n\r\n", True)])
for name, field in [
    ("te_in_value", (b"x", b"y\r\ntransfer-encoding: chunked")),
    ("te_in_value_lf", (b"x", b"y\ntransfer-encoding: chunked")),
    ("te_in_name", (b"x: y\r\ntransfer-encoding", b"chunked")),
    ("te_with_space", (b"transfer-encoding ", b"chunked")),
    ("te_with_colon", (b"transfer-encoding:", b"chunked")),
    ("te_with_tab", (b"transfer-encoding\t", b"chunked")),
    ("te_upper_case", (b"Transfer-Encoding", b"chunked")),
    ("te_vertical_tab", (b"transfer-encoding", b"\x0bchunked")),
    ("cl_in_value", (b"x", b"y\r\ncontent-length: 0")),
    ("host_in_value", (b"x", b"y\r\nhost: other.example")),
]:
    request(f"smuggling.{name}", "9113 §8.2.1, §10.3", f"the field {field!r} and chunks as the body", method="POST", more=[field],
            body=lambda c: [data(1, b"0\r\n\r\n" + second_request(c), True)])
for name, make in [
    ("request_in_value", lambda c: ("x-value", b"y\r\n\r\n" + second_request(c))),
    ("request_in_value_lf", lambda c: ("x-value", b"y\n\nGET " + smuggled(c) + b" HTTP/1.1\nHost: a.example\n\n")),
    ("request_in_name", lambda c: (b"x: y\r\n\r\n" + second_request(c), b"z")),
    ("request_in_cookie", lambda c: ("cookie", b"a=b\r\n\r\n" + second_request(c))),
    ("request_in_te", lambda c: ("te", b"trailers\r\n\r\n" + second_request(c))),
    ("request_in_expect", lambda c: ("expect", b"100-continue\r\n\r\n" + second_request(c))),
]:
    request(f"smuggling.{name}", "9113 §8.2.1, §10.3", "a request behind an empty line in a field",
            more=lambda c, make=make: [make(c)])


@case("smuggling.body_of_get", "9113 §8.1, §10.3", "GET with a request as its body", "one request with that body, or refused")
async def _(c):
    body = second_request(c)
    await c.send(headers(1, c.fields("/seen"), end_stream=False), data(1, body, True))
    found = await c.response(1)
    if c.target.origin and found.status == 200:
        demand(json.loads(found.body)["body_bytes"] in (0, len(body)), found.body.decode())
    return answered() | refused()


# ---- §8.5 CONNECT, RFC 8441

request("connect.plain", "9113 §8.5", "CONNECT with `:authority` alone, of a server that is no such proxy", refused(),
        method="CONNECT", drop=(":scheme", ":path"), authority=b"a.example:443", law="gateway")
request("connect.with_path", "9113 §8.5", "CONNECT with `:path` and `:scheme`", malformed() | Status(501, 501), method="CONNECT",
        authority=b"a.example:443")
request("connect.no_authority", "9113 §8.5", "CONNECT without `:authority`", malformed() | Status(501, 501), method="CONNECT",
        drop=(":scheme", ":path", ":authority"))


async def extended(c, **pseudo):
    if c.settings.get(ENABLE_CONNECT_PROTOCOL):
        raise NotApplicable("SETTINGS_ENABLE_CONNECT_PROTOCOL is 1")
    await c.send(headers(1, c.fields(**pseudo), end_stream=False))
    return malformed() | Status(500, 501)


@case("connect.extended", "8441 §4", "extended CONNECT where it is not enabled", "malformed", origin="nothing")
async def _(c):
    return await extended(c, method="CONNECT", protocol="websocket")


request("connect.websocket_refused", "8441 §4, ours", "extended CONNECT to what takes no WebSocket", refused(), law="gateway",
        method="CONNECT", protocol="websocket", end=False)
request("connect.protocol_unknown", "8441 §4, ours", "extended CONNECT of an unknown protocol", refused(), law="gateway",
        method="CONNECT", protocol="no-such-protocol", end=False)
request("connect.protocol_of_get", "8441 §4", "`:protocol` with GET", protocol="websocket")
