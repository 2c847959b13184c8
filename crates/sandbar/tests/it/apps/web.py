"""A web server that listens as soon as the file `go` is there, answers 500 below /bad, and /health as the file `health` says."""
import http.server
import os
import signal
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200
        if self.path == "/bad":
            status = 500
        if self.path == "/health":
            status = int(open("health").read()) if os.path.exists("health") else 503
        moved = self.path.partition("?to=")[2]
        self.send_response(302 if moved else status)
        if moved:
            self.send_header("Location", moved)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *arguments):
        pass


def end(*_):
    open("bye", "w").write("bye")
    print("bye", flush=True)
    sys.exit(0)


signal.signal(signal.SIGTERM, end)
print("starting", os.environ["SANDBAR_APP"], os.environ["SANDBAR_APP_ENTRY"], flush=True)
while not os.path.exists(os.environ.get("GO", "go")):
    time.sleep(0.02)
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", "3000"))), Handler)
server.daemon_threads = True
print("listening", flush=True)
server.serve_forever()
