"""A local HTTP server for the tests of downloads, which can be told to fail in the ways that servers do."""

import contextlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `files` (name: bytes) with Range; use it in a `with` block.

    Attributes:
        url: its address, ending in /.
        requests: a line for each request: (name, Range header or None, status).
        faults: name: iterator of dicts, one for each request, {} for none:
            status: an HTTP status instead of the file; cut: the connection ends after so many bytes of the body;
            stall: after so many bytes nothing comes before `go_on` is set; extra: the announced length is so much too long;
            plain: no Range.
    """

    def __init__(self, files):
        self.files, self.faults, self.requests = files, {}, []
        self.go_on = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self):
        self._proxy = os.environ.get("no_proxy")
        os.environ["no_proxy"] = "127.0.0.1"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *error):
        os.environ["no_proxy"] = self._proxy or ""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler):
        name = handler.path.lstrip("/")
        asked = handler.headers.get("Range")
        fault = next(self.faults.get(name, iter(())), {})
        body = self.files.get(name)
        status = fault.get("status") or (200 if body is not None else 404)
        if status != 200:
            self.requests.append((name, asked, status))
            handler.send_error(status)
            return
        match = None if fault.get("plain") else re.fullmatch(r"bytes=(\d+)-", asked or "")
        start = int(match[1]) if match else None
        status = 200 if start is None else 206 if start < len(body) else 416
        self.requests.append((name, asked, status))
        handler.send_response(status)
        if status == 416:
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            body = b""
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        handler.send_header("Content-Length", str(len(body) + fault.get("extra", 0)))
        handler.end_headers()
        self._send(handler, body, fault)

    def _send(self, handler, body, fault):
        if "stall" in fault:
            handler.wfile.write(body[: fault["stall"]])
            handler.wfile.flush()
            self.go_on.wait(20)
            body = body[fault["stall"] :]
        end = fault.get("cut", len(body) + min(fault.get("extra", 0), 0))
        with contextlib.suppress(OSError):  # the client may be gone
            handler.wfile.write(body[:end])
