"""An S3 server on loopback, moto's, that fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET = "shop"


@dataclass
class Store:
    """What was put, and what goes wrong."""

    url: str
    faults: Callable[[str], int] = lambda path: 0
    """Of a path that is put: 0 goes well, 1 cuts the connection, 2 never answers; else an HTTP status."""
    put: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of a client of this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def a_store() -> Iterator[Store]:
    """A server with one bucket."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *args: Any) -> None:
            """Nothing on the terminal."""

    store = Store("")
    moto: Any = DomainDispatcherApplication(create_backend_app)
    ended = threading.Event()

    def served(environ: dict[str, Any], start: Any) -> Any:
        path = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        if environ["REQUEST_METHOD"] == "PUT" and path.strip("/") != BUCKET:
            (store.copied if "HTTP_X_AMZ_COPY_SOURCE" in environ else store.put).append(path)
            fault = store.faults(path)
            if fault:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if fault == 1:
                environ["werkzeug.socket"].shutdown(2)
            if fault == 2:
                ended.wait()
            if fault:
                start(f"{max(fault, 400)} on purpose", [("Content-Length", "0")])
                return [b""]
        return moto(environ, start)

    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
