"""`tumorlens serve`: the web page."""

import contextlib
import signal
from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import ServeSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    settings = parse(ServeSettings, argv, prog, aliases={"--checkpoint2": "--compare"})
    from tumorlens.web.serve import serve

    with serve(settings) as server:
        before = signal.signal(signal.SIGTERM, lambda *_: server.stop())
        with contextlib.suppress(KeyboardInterrupt):  # how it is ended
            print(f"Open {server.address} in a browser; Ctrl-C ends it.")
            if not settings.is_local:
                print("Everyone who reaches this machine can use it: it asks for no password.")
            notice = "For research: not a medical device, and nothing it says is a diagnosis."
            print(notice, flush=True)
            server.wait()
        signal.signal(signal.SIGTERM, before)
    print("Ended.")
    return 0
