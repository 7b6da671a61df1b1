"""`tumorlens serve`: the web page."""

import contextlib
from collections.abc import Sequence

from tumorlens.cli.flags import parse
from tumorlens.settings import ServeSettings


def run(argv: Sequence[str], prog: str) -> int:
    """Serve until Ctrl-C."""
    settings = parse(ServeSettings, argv, prog, aliases={"--checkpoint2": "--compare"})
    from tumorlens.web.server import serving

    with serving(settings) as server:
        print(f"Open {server.address} in a browser; Ctrl-C ends it.", flush=True)
        if settings.host not in ("127.0.0.1", "localhost", "::1"):
            print("Everyone who reaches this machine can use it: it asks for no password.")
        print("For research: not a medical device, and nothing it says is a diagnosis.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # how it is ended
            server.wait()
    print("Ended.")
    return 0
