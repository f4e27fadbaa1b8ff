"""Serve an exported web page on the local network, or measure a phone's latency table in its browser.

Usage: python tools/serve.py run=<run folder> [table=latency out=<file>] [key=value ...]

Examples:
  python tools/export.py run=<run folder> format=web
  python tools/serve.py run=<run folder>                            the page, for every device on the network
  python tools/serve.py run=<run folder> host=127.0.0.1             only for this machine
  python tools/serve.py run=<run folder> table=latency out=phone.json      open the address on the phone, then
  python tools/search.py run=<run folder> latency=phone.json budget=0.7    search for that phone
  python tools/serve.py table=latency spec=seg/lraspp_v3_large size=[512,1024] out=phone.json
"""

import engine.environment  # noqa: F401  # isort: skip  (before torch is loaded)

import shlex
from functools import partial

from backbones.weights import catalog
from deploy.serve.options import ServeOptions
from deploy.serve.serve import serve_site, serve_table
from engine.config.launch import launch
from engine.published import run_by_name

log = partial(print, flush=True)


def serve(options: ServeOptions) -> None:
    if options.table is None:
        serve_site(options, log=log)
        return
    measured = serve_table(options, log=log)
    log(f"{len(measured.table.entries)} layers")
    log(measured.text("in the same browser"))
    if options.run is not None:
        words = (f"run={options.run}", f"latency={options.table_file}")
        log(f"next: python tools/search.py {shlex.join(words)} budget=0.7")
    log(f"out: {options.table_file}")


if __name__ == "__main__":
    launch(serve, "serve", __doc__, complete=partial(run_by_name, published=catalog.find))
