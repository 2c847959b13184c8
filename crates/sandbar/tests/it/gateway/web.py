"""A web application of some size, on the standard library: what the gateway's tests look at from behind."""
import base64, hashlib, http.server, json, os, pathlib, socket, struct, sys, time, urllib.parse

STARTS = pathlib.Path("/workspace/starts")
with STARTS.open("a") as f:
    f.write(f"{os.getpid()}\n")
CONNECTIONS = 0


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        global CONNECTIONS
        CONNECTIONS += 1
        super().setup()

    def log_message(self, *args):
        pass

    def reply(self, value, status=200, headers=()):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.trailers = []
            while (line := self.rfile.readline().strip()):
                self.trailers.append(line.decode().lower())
        else:
            left = int(self.headers.get("content-length", 0))
            while left:
                part = self.rfile.read(min(left, 65536))
                left -= len(part)
                yield part

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        path = url.path
        if path == "/sse":
            return self.sse()
        if path == "/ws":
            return self.ws()
        if path == "/slow":
            time.sleep(float(query["s"]))
            return self.reply({})
        if path == "/answer":
            return self.reply({}, int(query.pop("status", "200")), query.items())
        if path == "/cookies":
            return self.reply({}, headers=[("set-cookie", "a=1; Domain=localhost"), ("set-cookie", "b=2; Path=/"), ("connection", "x-hop"), ("x-hop", "1"), ("access-control-allow-origin", "*")])
        if path == "/break":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            self.close_connection = True
            return None
        if path == "/large":
            size = int(query["bytes"])
            self.send_response(200)
            self.send_header("content-length", str(size))
            self.end_headers()
            while size:
                part = min(size, 65536)
                self.wfile.write(b"x" * part)
                size -= part
            return None
        got = hashlib.sha256()
        count = 0
        self.trailers = []
        for part in self.body():
            got.update(part)
            count += len(part)
        headers = [[k.lower(), v] for k, v in self.headers.items()]
        self.reply({"method": self.command, "path": self.path, "headers": headers, "bytes": count, "sha256": got.hexdigest(), "trailers": self.trailers, "pid": os.getpid(), "connections": CONNECTIONS, "env": dict(os.environ)})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = do_GET

    def sse(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for i in range(3):
            while i and not pathlib.Path(f"/workspace/gate{i}").exists():
                time.sleep(0.01)
            data = f"data: {i}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def ws(self):
        accept = base64.b64encode(hashlib.sha1((self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        self.wfile.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\nX-Origin: {self.headers['origin']}\r\n\r\n".encode())
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            op, size = head[0] & 15, head[1] & 127
            if size == 126:
                size = struct.unpack(">H", self.rfile.read(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self.rfile.read(8))[0]
            mask = self.rfile.read(4)
            data = self.rfile.read(size)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(data)) if size < 1 << 20 else data
            if op == 8:
                self.wfile.write(bytes([0x88, len(data)]) + data)
                return
            size = len(data)
            length = bytes([size]) if size < 126 else bytes([126]) + struct.pack(">H", size) if size < 65536 else bytes([127]) + struct.pack(">Q", size)
            self.wfile.write(bytes([0x80 | op]) + length + data)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    if sys.argv[1:] == ["v6"]:
        address_family = socket.AF_INET6


address = "::1" if sys.argv[1:] == ["v6"] else "127.0.0.1"
Server((address, int(os.environ["SANDBOX0_SERVICE_PORT"])), App).serve_forever()
