"""A web server that sends the first part of a file and then stops."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VALUES = {"Last-Modified": "Sun, 01 Nov 2026 08:00:00 GMT", "ETag": '"1"'}


@contextmanager
def cut(path, size, *, then="close", headers=("Content-Length",)):
    """The address of a file of which `size` bytes arrive; then the server closes or stays `silent`."""
    content, over = path.read_bytes(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            for name in headers:
                self.send_header(name, VALUES.get(name, str(len(content))))
            self.end_headers()
            self.wfile.write(content[:size])
            if then == "silent":
                over.wait(60)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{path.name}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
