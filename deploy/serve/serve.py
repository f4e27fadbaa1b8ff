"""tools/serve.py: serves the page of an exported run, or the page that measures a latency table."""

from __future__ import annotations

import contextlib
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.formats import web
from deploy.latency_table.checked_table import CheckedTable, check_table
from deploy.latency_table.timed_network import TimedNetwork, network_and_size
from deploy.libraries import not_installed
from deploy.serve import address
from deploy.serve.browser_measurer import BrowserMeasurer
from deploy.serve.http_server import Calls, SiteServer
from deploy.serve.options import ServeOptions
from deploy.web import assets
from deploy.web.site_files import MEASURE, policy_of, write_page
from engine.data.preprocessing import Size
from engine.errors import UserError
from engine.io.progress import Progress
from engine.run import run_folder

Log = Callable[[str], None]

_WITHOUT_HTTPS = (
    "over http, browsers on other devices have no threads, no WebGPU and no camera; install the serve extra "
    f"for https: {address.INSTALL}"
)


def serve_site(options: ServeOptions, *, log: Log) -> None:
    """Serve the page of a run until Ctrl-C. Raises: UserError if it was not exported."""
    folder = _site(options)
    try:
        with _serving(options, folder, log=log, calls={}, token=""):
            log("press Ctrl-C to stop")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        log("stopped")


def _site(options: ServeOptions) -> Path:
    if options.site is not None:
        folder, remedy = (
            Path(options.site),
            'it must be the folder "site" that an export with format=web wrote',
        )
    else:
        assert options.run is not None
        folder = run_folder.find(Path(options.run)).path / "export" / "web-fp32" / web.FOLDER
        remedy = (
            f"run python tools/export.py run={options.run} format=web, or name the page of another export: "
            "site=<folder>/site"
        )
    if not (folder / "index.html").is_file() or not (folder / "model.onnx").is_file():
        raise UserError(f"{folder}: no page here; {remedy}")
    return folder


def serve_table(options: ServeOptions, *, log: Log) -> CheckedTable:
    """Serve the page that measures layers, and write the table that the first browser sends.

    Raises:
        UserError: if the network cannot be read, the file exists or cannot be written, or the browser
            cannot run a layer.
    """
    network, size = network_and_size(
        options.spec, options.run, options.image_size, options.overrides, options.checkpoint
    )
    with run_folder.claim_file(options.table_file) as out:
        package = assets.download(options.web.npm) if options.web.vendored else None
        measure = BrowserMeasurer(layer_s=options.layer_s, statistic=options.statistic)
        with tempfile.TemporaryDirectory(prefix="measure-") as folder:
            write_page(Path(folder), MEASURE, package=package, cdn=options.web.cdn)
            with _serving(options, Path(folder), log=log, calls=measure.calls, token=measure.token):
                measure.wait_for_page()
                log(f"measuring {measure.about['device']}, {measure.about['threads']} threads")
                measured = _measured(options, network, size, measure)
                measured.table.save(out)
                measure.finish(
                    {
                        "layers": len(measured.table.entries),
                        "sum_ms": measured.sum_ms,
                        "network_ms": measured.network_ms or measured.sum_ms,
                        "file": out.name,
                    }
                )
    return measured


def _measured(
    options: ServeOptions, network: TimedNetwork, size: Size, measure: BrowserMeasurer
) -> CheckedTable:
    bar: list[Progress] = []

    def progress(done: int, total: int) -> None:
        measure.progress = (done, total)
        if not bar:
            bar.append(Progress(total, unit="layer"))
        bar[0].update(done)

    measured = check_table(
        network, size=size, measure=measure, shares=tuple(options.shares), progress=progress
    )
    bar[0].close()
    return measured


@contextlib.contextmanager
def _serving(
    options: ServeOptions, folder: Path, *, log: Log, calls: Calls, token: str
) -> Iterator[SiteServer]:
    """A running server; prints its address and the QR code."""
    here = address.reachable(options.host)
    context = _context(options, here)
    server = SiteServer(
        (options.host, options.port),
        folder,
        policy=policy_of(folder),
        calls=calls,
        context=context,
        opened=lambda device: log(f"opened by {device}"),
    )
    url = f"http{'s' if context else ''}://{here}:{server.server_address[1]}/" + (
        f"#{token}" if token else ""
    )
    for line in _lines(options, url, secure=context is not None):
        log(line)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _context(options: ServeOptions, here: str) -> ssl.SSLContext | None:
    if options.certificate is not None and options.key is not None:
        return address.own_context(options.certificate, options.key)
    if options.https is None and (address.is_local(options.host) or not_installed(["cryptography"])):
        return None
    return None if options.https is False else address.self_signed_context(here)


def _lines(options: ServeOptions, url: str, *, secure: bool) -> Iterator[str]:
    if code := "" if address.is_local(options.host) else address.qr_code(url):
        yield code
    yield f"open: {url}"
    if secure and options.certificate is None:
        yield "the browser will warn about the certificate, because it is self-signed; accept it"
    if not secure and not address.is_local(options.host):
        yield _WITHOUT_HTTPS if not_installed(["cryptography"]) else _WITHOUT_HTTPS.partition(";")[0]
