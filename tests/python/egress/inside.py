"""Clients that run inside a sandbox, where a command line is not enough. `python3 inside.py CLIENT ARGUMENTS`; exits with 0
when it was answered. Each says who served it."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import time

TOKEN = os.environ.get("TOKEN", "")
PATIENCE_S = 10
# Where QUIC is refused nobody says so.
QUIC_PATIENCE_S = float(os.environ.get("QUIC_PATIENCE_S", PATIENCE_S))


def context(alpn=()):
    made = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE"))
    if alpn:
        made.set_alpn_protocols(list(alpn))
    return made


def requests(url):
    import requests

    print(requests.get(url, timeout=PATIENCE_S).text)


def aiohttp(url):
    import aiohttp

    async def get():
        trust = aiohttp.TCPConnector(ssl=context())
        async with aiohttp.ClientSession(connector=trust, timeout=aiohttp.ClientTimeout(PATIENCE_S)) as session, session.get(url) as reply:
            print(reply.status, await reply.text())
            assert reply.status == 200

    asyncio.run(get())


def httpx(url):
    import httpx

    with httpx.Client(http2=True, verify=context(), timeout=PATIENCE_S) as client:
        reply = client.get(url)
        print(reply.http_version, reply.text)
        reply.raise_for_status()


def grpc(target, kind="tls", *metadata):
    import grpc

    roots = open(os.environ["SSL_CERT_FILE"], "rb").read() if "SSL_CERT_FILE" in os.environ else None
    channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(roots)) if kind == "tls" else grpc.insecure_channel(target)
    call = channel.unary_unary(f"/test.Greetings/{TOKEN}")
    print(call(b"hello", timeout=PATIENCE_S, metadata=[tuple(pair.split("=", 1)) for pair in metadata]).decode())


def websocket(url, count="2"):
    # The library's other client reads and writes one TLS connection in two threads, which OpenSSL does not take:
    # without anything between it and the server, one connection in a few hundred is lost.
    from websockets.asyncio.client import connect

    async def talk():
        more = {"ssl": context()} if url.startswith("wss:") else {}
        async with connect(url, open_timeout=PATIENCE_S, close_timeout=1, **more) as line:
            for number in range(int(count)):
                await line.send(f"{TOKEN} {number}")
                print(await asyncio.wait_for(line.recv(), PATIENCE_S))

    asyncio.run(talk())


def quic(host, port="443", name=None, path=None, local_port=0):
    """HTTP/3. With a name, that is who it claims to want; the address is the host's."""
    from aioquic.asyncio.client import connect
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived
    from aioquic.quic.configuration import QuicConfiguration

    class Client(QuicConnectionProtocol):
        def ask(self, authority):
            self.http, self.answer = H3Connection(self._quic), asyncio.get_running_loop().create_future()
            asked = {b":method": b"GET", b":scheme": b"https", b":authority": authority.encode(), b":path": (path or f"/{TOKEN}").encode()}
            self.http.send_headers(self._quic.get_next_available_stream_id(), list(asked.items()), end_stream=True)
            self.transmit()
            return self.answer

        def quic_event_received(self, event):
            for seen in self.http.handle_event(event) if hasattr(self, "http") else []:
                if isinstance(seen, DataReceived) and not self.answer.done():
                    self.answer.set_result(seen.data.decode())

    async def get():
        settings = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=name or host, idle_timeout=QUIC_PATIENCE_S)
        settings.load_verify_locations(os.environ.get("SSL_CERT_FILE"))
        if name:
            settings.verify_mode = ssl.CERT_NONE
        async with connect(host, int(port), configuration=settings, create_protocol=Client, local_port=local_port) as client:
            print(await asyncio.wait_for(client.ask(name or host), QUIC_PATIENCE_S))

    asyncio.run(asyncio.wait_for(get(), 2 * QUIC_PATIENCE_S))


def quic_again(host, *names):
    """From one socket: junk for the name `junk`, else a connection for the name."""
    import random

    port = random.randint(20000, 40000)
    answered = 0
    for name in names:
        if name == "junk":
            line = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            line.bind(("::", port))
            line.sendto(b"junk", (f"::ffff:{socket.gethostbyname(host)}", 443))
            line.close()
            continue
        try:
            quic(host, "443", name, local_port=port)
            answered += 1
        except Exception as error:
            print(f"{name}: {type(error).__name__} {error}")
    assert answered == len(names) - names.count("junk")


def mqtt(host, port, user=None, password=None):
    from paho.mqtt import client, enums

    line = client.Client(enums.CallbackAPIVersion.VERSION2, client_id=TOKEN)
    if user:
        line.username_pw_set(user, password)
    done = []
    line.on_publish = lambda *_: done.append("published")
    line.on_connect = lambda _line, _data, _flags, reason, _properties: (done.append(str(reason)), line.publish(f"test/{TOKEN}", "x", 1))
    line.connect(host, int(port), 10)
    until = time.monotonic() + PATIENCE_S
    while "published" not in done and time.monotonic() < until and line.loop(0.5) == 0:
        pass
    print(done)
    assert "published" in done


def mail(host):
    import smtplib

    with smtplib.SMTP(host, 25, timeout=PATIENCE_S) as line:
        line.sendmail("inside@good.test", "outside@mail.test", f"Subject: {TOKEN}\n\nhello")
    print("sent")


def udp(host, port, text=None):
    family, kind, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    line = socket.socket(family, kind)
    line.settimeout(3)
    line.connect(address)
    line.send((text or TOKEN).encode())
    print(line.recv(2000).decode())


def udp_each(port, *hosts):
    """From one socket to one after the other."""
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.settimeout(2)
    for host in hosts:
        line.sendto(TOKEN.encode(), (host, int(port)))
        print(line.recvfrom(2000))


def padded(host, authority):
    """A request with a Host after as much as many readers take at once."""
    padding = "".join(f"X-Pad-{number}: {'x' * 4000}\r\n" for number in range(15))
    with socket.create_connection((host, 80), PATIENCE_S) as line:
        line.sendall(f"GET /{TOKEN} HTTP/1.1\r\n{padding}Host: {authority}\r\nConnection: close\r\n\r\n".encode())
        print(line.recv(4096).decode())


def transport(kind, host, authority):
    """A request over another kind of TCP."""
    data = f"GET /{TOKEN} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode()
    line = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262 if kind == "mptcp" else 0)
    if kind == "fast open":
        line.sendto(data, socket.MSG_FASTOPEN, (socket.gethostbyname(host), 80))
    else:
        if kind.startswith("from "):
            line.bind((kind.removeprefix("from "), 0))
        line.connect((socket.gethostbyname(host), 80))
        line.sendall(data)
    line.settimeout(5)
    print(line.recv(4096).decode())


def greet(host, port):
    """Waits for the server's word, then says its own."""
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        said = line.recv(100)
        print(said.decode())
        assert said
        line.sendall(f"{TOKEN}\n".encode())
        print(line.recv(2000).decode())


def hold(host, port):
    """Keeps a connection, is answered on it again and again, and says when it ends."""
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        line.recv(100)
        try:
            for number in range(600):
                line.sendall(b"hold\n")
                if not line.recv(100):
                    break
                print(f"answer {number}", flush=True)
                time.sleep(0.1)
            print("ended", flush=True)
        except OSError as error:
            print("ended", error, flush=True)


def raw(host, port, text, how="at once", name=None):
    """Sends text (with escapes) as it is, and prints what comes back within a moment. `how`: `at once`, `bytes` (one at a time),
    `late` (after a while), `parts` (split at |, each after an answer), `halves` (split at |, with a long while between). With a name, inside TLS for that name."""
    data = text.replace("$TOKEN", TOKEN).encode().decode("unicode_escape").encode("latin-1")
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        if name is not None:
            trust = ssl._create_unverified_context()
            line = trust.wrap_socket(line, server_hostname=name or None)
        line.settimeout(3)
        parts = data.split(b"|") if how in ("parts", "halves") else [bytes([byte]) for byte in data] if how == "bytes" else [data]
        # Longer than a proxy may wait before it lets the server begin.
        if how == "late":
            time.sleep(1.5)
        answers = b""
        for number, part in enumerate(parts):
            line.sendall(part)
            if how == "bytes":
                time.sleep(0.002)
            elif how == "halves":
                # Longer than a proxy may wait for the rest of what was begun.
                time.sleep(11 if number + 1 < len(parts) else 0)
            elif number + 1 < len(parts):
                answers += line.recv(65536)
        try:
            while more := line.recv(65536):
                answers += more
                line.settimeout(0.5)
        except TimeoutError:
            pass
    print(answers.decode("latin-1"))
    assert answers


def hello(host, port, *names, ech=False, send=socket.socket.sendall, records=1):
    """The first message of TLS, by hand: with a name, with two, with an encrypted one besides; in several records. Says whether the
    server answered."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    trust = ssl._create_unverified_context()
    line = trust.wrap_bio(incoming, outgoing, server_hostname=names[0] if names and names[0] else None)
    try:
        line.do_handshake()
    except ssl.SSLWantReadError:
        pass
    record = outgoing.read()
    body = bytearray(record[9:])
    at = 2 + 32
    at += 1 + body[at]
    at += 2 + struct.unpack_from("!H", body, at)[0]
    at += 1 + body[at]
    size = struct.unpack_from("!H", body, at)[0]
    extensions = bytes(body[at + 2 : at + 2 + size])
    if ech:
        # An outer hello: HPKE suite, configuration, an encapsulated key and a payload, of the usual lengths.
        inner = struct.pack("!BHHBH", 0, 1, 1, 7, 32) + os.urandom(32) + struct.pack("!H", 208) + os.urandom(208)
        extensions += struct.pack("!HH", 0xFE0D, len(inner)) + inner
    for name in names[1:]:
        entry = b"\0" + struct.pack("!H", len(name)) + name.encode()
        extensions += struct.pack("!HHH", 0, len(entry) + 2, len(entry)) + entry
    message = bytes(body[:at]) + struct.pack("!H", len(extensions)) + extensions
    message = b"\1" + len(message).to_bytes(3) + message
    with socket.create_connection((host, int(port)), PATIENCE_S) as far:
        far.settimeout(5)
        step = -(-len(message) // records)
        parts = [message[at : at + step] for at in range(0, len(message), step)]
        send(far, b"".join(b"\x16\3\1" + struct.pack("!H", len(part)) + part for part in parts))
        said = far.recv(100)
    print("server hello" if said[:1] == b"\x16" else f"refused: {said!r}")
    assert said[:1] == b"\x16"


def ech(host, port, name):
    hello(host, port, name, ech=True)


def slowly(host, port, name):
    def send(line, data):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            line.sendall(bytes([byte]))
            time.sleep(0.002)

    hello(host, port, name, send=send)


def cut(host, port, name):
    hello(host, port, name, records=40)


def many(*urls):
    """Requests on one connection of HTTP/1.1, each with a Host of its own: HOST-OF-CONNECTION PORT HOST..."""
    import http.client

    line = http.client.HTTPConnection(urls[0], int(urls[1]), timeout=PATIENCE_S)
    line.connect()
    line.auto_open = False
    statuses = []
    for host in urls[2:]:
        line.putrequest("GET", f"/{TOKEN}", skip_host=True)
        line.putheader("Host", host)
        line.endheaders()
        reply = line.getresponse()
        statuses.append((reply.status, reply.read().decode().strip()))
        print(json.dumps(statuses), flush=True)
    assert all(status == 200 for status, _ in statuses)


def paced(host):
    """A request every moment on one connection."""
    import http.client

    line = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    line.connect()
    line.auto_open = False
    for number in range(600):
        line.request("GET", f"/{TOKEN}")
        print(f"answer {number}: {line.getresponse().read()}", flush=True)
        time.sleep(0.1)


def h2(host, port, *authorities):
    """Requests on one connection of HTTP/2, each with an authority of its own; TLS where the port has it."""
    import h2.config
    import h2.connection
    import h2.events

    line = socket.create_connection((host, int(port)), PATIENCE_S)
    if int(port) in (443, 8443):
        trust = ssl._create_unverified_context()
        trust.set_alpn_protocols(["h2"])
        line = trust.wrap_socket(line, server_hostname=host)
    line.settimeout(5)
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
    http.initiate_connection()
    scheme = "https" if int(port) in (443, 8443) else "http"
    statuses = []
    for number, authority in enumerate(authorities):
        stream = 1 + 2 * number
        # AUTHORITY+HOST, either of them may be empty.
        authority, _, host = authority.partition("+")
        asked = {":method": "GET", ":scheme": scheme, ":authority": authority, ":path": f"/{TOKEN}", "host": host}
        http.send_headers(stream, [field for field in asked.items() if field[1]], end_stream=True)
        line.sendall(http.data_to_send())
        ended = False
        while not ended:
            data = line.recv(65536)
            assert data, f"closed after {statuses}"
            for event in http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    statuses.append(dict(event.headers)[":status"])
                if isinstance(event, h2.events.StreamReset):
                    statuses.append(f"reset {event.error_code}")
                if isinstance(event, h2.events.DataReceived):
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                ended |= isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated))
            line.sendall(http.data_to_send())
    print(statuses)
    assert all(status == "200" for status in statuses)


def h2c(host, port, first, second, *tokens):
    """A request with an `Upgrade` for each of the tokens, and one for the second authority in the protocol that it leads to."""
    import h2.connection

    http = h2.connection.H2Connection()
    settings = http.initiate_upgrade_connection().decode()
    upgrades = "".join(f"Upgrade: {token}\r\n" for token in tokens)
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        line.settimeout(5)
        line.sendall(f"GET /first HTTP/1.1\r\nHost: {first}\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: {settings}\r\n{upgrades}\r\n".encode())
        answer = line.recv(65536)
        http.send_headers(3, [(":method", "GET"), (":scheme", "http"), (":authority", second), (":path", f"/{TOKEN}")], end_stream=True)
        line.sendall(http.data_to_send())
        print(answer)
        # The answers to both, and the settings.
        line.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while more := line.recv(65536):
                print(more)
    assert b" 101 " in answer, "it is no other protocol"


def connect(address, port="80"):
    """Only connects, and says what became of it."""
    import errno

    try:
        with socket.create_connection((address, int(port)), 5) as line:
            line.sendall(f"GET /{TOKEN} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            print(line.recv(100).decode())
    except OSError as error:
        sys.exit(f"refused: {errno.errorcode.get(error.errno, error)}")


def question(server, name, kind="udp"):
    """Asks a name server of one's own choice."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    packet = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)
    if kind == "udp":
        line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        line.settimeout(3)
        line.connect((server, 53))
        line.send(packet)
        reply = line.recv(2000)
    else:
        line = socket.create_connection((server, 53), 5)
        line.sendall(struct.pack("!H", len(packet)) + packet)
        reply = line.recv(2000)[2:]
    print(f"answered with {struct.unpack_from('!H', reply, 6)[0]} records")
    assert struct.unpack_from("!H", reply, 6)[0]


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](*sys.argv[2:])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
