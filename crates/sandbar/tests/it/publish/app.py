"""A function for tests: says who it is and what it sees, keeps what it is sent, and takes its time when it is told to."""
import http.server, json, os, pathlib, sys, time, urllib.parse


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        time.sleep(float(query.get("s", 0)))
        if url.path == "/die":
            os._exit(3)
        read = lambda path: pathlib.Path(path).read_text() if pathlib.Path(path).exists() else None
        files = {path: read(path) for path in query.get("read", "").split(",") if path}
        self.reply({"tag": os.environ.get("TAG"), "own": os.environ.get("OWN"), "sandbox": os.readlink("/proc/self/ns/net"), "pid": os.getpid(), "files": files})

    def do_POST(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        pathlib.Path(url.path).write_bytes(body)
        self.reply({"bytes": len(body)})


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("0.0.0.0", int(sys.argv[1])), App).serve_forever()
