"""The servers of the test's world. Each writes down what it saw, and tells none of it to whoever asks."""

import asyncio
import os
import re
import socket
import ssl
import threading
import time

import grpc
import hypercorn.asyncio
import hypercorn.config
from aiosmtpd.controller import Controller

import names
from names import CDN, EVIL, EVIL_6, FOREIGN_RESOLVER, GOOD, GOOD_6, GOOD_TOO, METADATA, OPENED, PRIVATE

HEAD_BYTES_MAX = 1 << 20
WITHIN_S = 30
SOON_S = 5


class Log:
    """What servers saw, in order: `server: what`."""

    def __init__(self):
        self.lines = []
        self.news = threading.Condition()

    def of(self, server):
        def record(what):
            with self.news:
                self.lines.append(f"{server}: {what}")
                self.news.notify_all()

        return record

    def since(self, mark):
        with self.news:
            return self.lines[mark:]

    def mark(self):
        with self.news:
            return len(self.lines)

    def wait_for(self, mark, is_it, others):
        """The first line after a mark, or of the others, that is it, soon; else None."""
        until = time.monotonic() + SOON_S
        with self.news:
            while True:
                found = next((line for line in self.lines[mark:] + others() if is_it(line)), None)
                if found or time.monotonic() > until:
                    return found
                self.news.wait(0.1)


class World:
    """All of them, in a thread of their own until the process ends."""

    def __init__(self, folder, authority, canary):
        self.folder, self.authority, self.canary, self.log = folder, authority, canary, Log()
        self.names = names.Names()
        hosts = ["good.test", "*.good.test", "both.test", "six.test", "several.test", "alias.test", "zero.test", "mail.test", "db.test", "socks.test", "opened.test"]
        authority.certify("good", hosts)
        authority.certify("evil", ["evil.test", "*.evil.test", "xgood.test", "xn--bcher-kva.test", "good.test.evil.test"])
        authority.certify("cdn", ["fine.cdn.test", "foul.cdn.test"])
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self.start(), self.loop).result(WITHIN_S)
        self.start_grpc()
        Controller(Mail(self.log.of("mail")), hostname=GOOD, port=25, server_hostname="mail.test").start()

    async def start(self):
        record = self.log.of
        await names.serve(self.names, "127.0.0.1", record("names"))
        await names.serve(self.names, FOREIGN_RESOLVER, record("foreign resolver"))
        sixes = [("good", GOOD_6), ("evil", EVIL_6)] if "SANDBAR_TEST_IPV6" in os.environ else []
        for server, address in [("good", GOOD), ("good", GOOD_TOO), ("evil", EVIL), ("cdn", CDN), ("opened", OPENED), *sixes]:
            await asyncio.start_server(Http(server, record(server)).serve, address, 80, limit=HEAD_BYTES_MAX)
            await asyncio.start_server(Http(server, record(server)).serve, address, 8080)
            if server == "opened":
                continue
            await asyncio.start_server(Http(server, record(server), tls=True).serve, address, 8443, ssl=self.tls(server, record(server)))
            await self.start_hypercorn(server, address, record(server))
            await asyncio.start_server(Greeter(record(server)).serve, address, 7000)
            loop = asyncio.get_running_loop()
            await loop.create_datagram_endpoint(lambda of=record(server): Echo(of), local_addr=(address, 9000))
        for server, address in [("private", PRIVATE), ("metadata", METADATA)]:
            await asyncio.start_server(Http(server, record(server)).serve, address, 80, limit=HEAD_BYTES_MAX)
        for address, user in [(GOOD, None), (GOOD_TOO, ("proxy-user", "proxy-" + self.canary))]:
            await asyncio.start_server(Socks(self, user).serve, address, 1080)

    def tls(self, server, record):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.folder}/{'good' if server == 'opened' else server}.crt", f"{self.folder}/{server}.key")
        context.set_alpn_protocols(["http/1.1"])
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(self.authority.path)
        context.sni_callback = lambda _socket, name, _context: record(f"tls hello {name}")
        return context

    async def start_hypercorn(self, server, address, record):
        """HTTP/1.1, HTTP/2, HTTP/3 and WebSockets at one address."""
        config = hypercorn.config.Config()
        host = f"[{address}]" if ":" in address else address
        config.bind = config.quic_bind = [f"{host}:443"]
        config.insecure_bind = [f"{host}:8081"]
        config.certfile, config.keyfile = f"{self.folder}/{server}.crt", f"{self.folder}/{server}.key"
        config.loglevel, config.accesslog, config.graceful_timeout = "ERROR", None, 0
        config.errorlog = f"{self.folder}/hypercorn.log"
        site = Site(server, record, self.folder)
        asyncio.ensure_future(hypercorn.asyncio.serve(site, config, shutdown_trigger=asyncio.Event().wait, mode="asgi"))

    def start_grpc(self):
        from concurrent import futures

        for server, address in [("good", GOOD), ("evil", EVIL)]:
            made = grpc.server(futures.ThreadPoolExecutor(4))
            made.add_generic_rpc_handlers([Greetings(server, self.log.of(server))])
            pair = [(open(f"{self.folder}/{server}.key", "rb").read(), open(f"{self.folder}/{server}.crt", "rb").read())]
            made.add_secure_port(f"{address}:50051", grpc.ssl_server_credentials(pair))
            made.add_insecure_port(f"{address}:50052")
            made.start()
            setattr(self, f"grpc_{server}", made)


class Http:
    """HTTP/1.1 by hand, so that every byte of a request is seen as it came."""

    def __init__(self, server, record, tls=False):
        self.server, self.record, self.tls = server, record, tls

    async def serve(self, reader, writer):
        peer = writer.get_extra_info("peercert")
        client = f" (certificate of {peer['subject'][0][0][1]})" if peer else ""
        self.record(f"connected{client}")
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.strip().split("\r\n")
                if not re.fullmatch(r"\S+ \S+ HTTP/\d\.\d(\n.*)*", line):
                    raise ValueError(line)
                headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
                body = b""
                if "content-length" in headers:
                    body = await reader.readexactly(int(headers["content-length"]))
                elif "chunked" in headers.get("transfer-encoding", ""):
                    while size := int((await reader.readline()).split(b";")[0], 16):
                        body += await reader.readexactly(size)
                        await reader.readline()
                    await reader.readline()
                self.record(f"{line} | {' | '.join(fields)} | {body.decode('latin-1')}")
                status, more, text = self.reply(line, headers, body)
                reply = f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n{more}\r\n{text}"
                writer.write(reply.encode())
                await writer.drain()
                if "close" in headers.get("connection", ""):
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError) as error:
            junk = getattr(error, "partial", None) or (str(error) if isinstance(error, ValueError) else "")
            if junk:
                self.record(f"junk {junk!r}")
        finally:
            writer.close()

    def reply(self, line, headers, body):
        target = line.split(" ")[1] if " " in line else "/"
        if target.startswith("/to/"):
            scheme = "https" if self.tls else "http"
            return "302 Found", f"Location: {scheme}://{target[4:]}\r\n", ""
        if target.startswith("/mcp"):
            return "200 OK", "Content-Type: application/json\r\n", '{"jsonrpc": "2.0", "id": 1, "result": {"content": "served by ' + self.server + '"}}'
        return "200 OK", "", f"served by {self.server}\n"


class Site:
    """An ASGI application."""

    def __init__(self, server, record, folder):
        self.server, self.record, self.folder = server, record, folder

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        headers = " | ".join(f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in scope["headers"])
        query = scope["query_string"].decode()
        asked = scope["raw_path"].decode("latin-1").split("?")[0] + (f"?{query}" if query else "")
        if scope["type"] == "websocket":
            self.record(f"WEBSOCKET {asked} {scope['http_version']} | {headers}")
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                text = message.get("text") or ""
                self.record(f"frame {text}")
                await send({"type": "websocket.send", "text": f"{self.server} heard {len(text)}"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        shown = body.decode("latin-1") if len(body) < 4096 else f"{len(body)} bytes"
        self.record(f"{scope['method']} {asked} HTTP/{scope['http_version']} | {headers} | {shown if '/git/' not in asked else ''}")
        if asked.startswith("/git/"):
            status, fields, text = await self.git(scope, body)
        elif asked.startswith("/to/"):
            status, fields, text = 302, [(b"location", b"https://" + asked[4:].encode())], b""
        else:
            status, fields, text = 200, [], f"served by {self.server} over {scope['http_version']}\n".encode()
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": text})

    async def git(self, scope, body):
        """git's own CGI program."""
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": f"{self.folder}/repositories", "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "test",
            "REQUEST_METHOD": scope["method"], "PATH_INFO": scope["path"].removeprefix("/git"), "QUERY_STRING": scope["query_string"].decode(),
            "CONTENT_TYPE": headers.get("content-type", ""), "CONTENT_LENGTH": str(len(body)), "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "GIT_PROTOCOL": headers.get("git-protocol", ""), "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
        }  # fmt: skip
        pipe = asyncio.subprocess.PIPE
        backend = await asyncio.create_subprocess_exec("git", "http-backend", stdin=pipe, stdout=pipe, env=environment)
        out, _ = await backend.communicate(body)
        head, _, text = out.partition(b"\r\n\r\n")
        fields = [tuple(part.strip() for part in line.split(b":", 1)) for line in head.split(b"\r\n") if b":" in line]
        status = next((int(value[:3]) for name, value in fields if name.lower() == b"status"), 200)
        return status, [(name.lower(), value) for name, value in fields if name.lower() != b"status"], text


class Greeter:
    """Speaks first, as mail and database servers do, then keeps what it is told."""

    def __init__(self, record):
        self.record = record

    async def serve(self, reader, writer):
        self.record("greeted")
        writer.write(b"220 ready\n")
        try:
            while line := await reader.read(4096):
                self.record(f"told {line!r}")
                writer.write(b"250 " + line)
        except ConnectionError:
            self.record("reset")
        writer.close()


class Echo(asyncio.DatagramProtocol):
    def __init__(self, record):
        self.record = record

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, packet, sender):
        self.record(f"datagram {packet!r}")
        self.transport.sendto(b"echo " + packet, sender)


class Greetings(grpc.GenericRpcHandler):
    def __init__(self, server, record):
        self.server, self.record = server, record

    def service(self, call):
        metadata = " | ".join(f"{key}: {value}" for key, value in call.invocation_metadata)
        self.record(f"grpc {call.method} | {metadata}")
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: f"served by {self.server} over grpc".encode())


class Mail:
    def __init__(self, record):
        self.record = record

    async def handle_DATA(self, _server, _session, envelope):
        self.record(f"mail to {envelope.rcpt_tos} | {envelope.content!r}")
        return "250 taken"


class Socks:
    """A SOCKS5 server (RFC 1928, 1929) that says where it was sent."""

    def __init__(self, world, user):
        self.world, self.user, self.record = world, user, world.log.of("proxy" if user is None else "proxy with login")

    async def serve(self, reader, writer):
        try:
            _, count = await reader.readexactly(2)
            methods = await reader.readexactly(count)
            wanted = 2 if self.user else 0
            if wanted not in methods:
                self.record("no fitting method")
                writer.write(b"\5\xff")
                return
            writer.write(bytes([5, wanted]))
            if self.user:
                await reader.readexactly(1)
                user = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
                password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
                fits = (user, password) == self.user
                self.record(f"login of {user}: {'right' if fits else 'wrong'}")
                writer.write(bytes([1, 0 if fits else 1]))
                if not fits:
                    return
            _, _, _, kind = await reader.readexactly(4)
            if kind == 3:
                host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            else:
                host = socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, await reader.readexactly(4 if kind == 1 else 16))
            port = int.from_bytes(await reader.readexactly(2))
            self.record(f"connect to {host}:{port}")
            known = self.world.names.table.get(host)
            far = await asyncio.open_connection(known[0][-1] if known else host, port)
            writer.write(b"\5\0\0\1" + bytes(6))
            await asyncio.gather(copy(reader, far[1]), copy(far[0], writer))
        except (asyncio.IncompleteReadError, ConnectionError, OSError):
            pass
        finally:
            writer.close()


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (ConnectionError, OSError, RuntimeError):
        pass
