"""`tumorlens cache [show | clear]`."""

from collections.abc import Sequence

from tumorlens.errors import TumorlensError


def run(argv: Sequence[str], prog: str) -> int:
    """Say how large the decode cache is, or remove it."""
    word = argv[0] if argv else "show"
    if word in ("-h", "--help"):
        print(
            f"usage: {prog} [show | clear]\n\nShow or clear the cache of decoded images.\n\n"
            "TUMORLENS_CACHE names its folder; TUMORLENS_CACHE_SIZE bounds the pixels kept in it,\n"
            "such as 2G (default 8G). What was not used for longest goes first."
        )
        return 0
    if word not in ("show", "clear") or len(argv) > 1:
        raise TumorlensError(f"found `{' '.join(argv)}`, expected `show` or `clear`.")
    from tumorlens.data import cache

    entries, size = cache.clear() if word == "clear" else cache.contents()
    done = "removed" if word == "clear" else "holds"
    print(f"{cache.cache_folder()}: {done} {entries} entries, {size / 1e6:.1f} MB.")
    return 0
