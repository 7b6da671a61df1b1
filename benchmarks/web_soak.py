"""Soak of `tumorlens serve`: thousands of mixed good and hostile requests on loopback.

    python benchmarks/web_soak.py [CHECKPOINT] [--requests 2000]

Writes results/web/soak.json. Every request's answer is known beforehand; one that differs is a
fault. Memory is the server's resident set after the warm-up and after each fifth of the requests.
Needs the extra `web`.
"""

import argparse
import gzip
import io
import itertools
import json
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import nibabel
import numpy as np
from PIL import Image

from machine import facts
from tumorlens.checkpoint import file as checkpoints
from tumorlens.checkpoint.file import Checkpoint
from tumorlens.data.preprocessing import Preprocessing
from tumorlens.files import write_json
from tumorlens.models.build import build_model

RESULT = Path(__file__).parents[1] / "results" / "web" / "soak.json"
USERS = 4
MOST_MB = 2


@dataclass(frozen=True)
class Case:
    """A request: what to send, and what must come back."""

    name: str
    hostile: bool
    send: Callable[[httpx.Client, random.Random], str]
    expected: str


def ask(client: httpx.Client, content: bytes, where: str = "/predict", **headers: str) -> str:
    """Send a file, as the page does; status and text of the response."""
    return _text(client.post(where, content=content, headers=headers))


def leafed(client: httpx.Client, content: bytes) -> str:
    """Send a volume, ask for its first slice, and have it forgotten."""
    token = re.search(r'data-token="([^"]+)"', client.post("/predict", content=content).text)
    if token is None:
        return "no token"
    place = f"/volumes/{token.group(1)}"
    got = _text(client.get(f"{place}/1"))
    client.delete(place)
    return got


def png(rng: random.Random, size: tuple[int, int] | None = None) -> bytes:
    """A slice that nobody has sent before."""
    size = size or (rng.randint(60, 300), rng.randint(60, 300))
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, size, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


def volume(rng: random.Random) -> bytes:
    """A gzipped NIfTI volume."""
    shape = tuple(rng.randint(20, 60) for _ in range(3))
    values = np.random.default_rng(rng.getrandbits(32)).integers(0, 999, shape).astype(np.int16)
    return gzip.compress(nibabel.Nifti1Image(values, np.eye(4)).to_bytes(), 1)


def bomb() -> bytes:
    """A small PNG that says it is 50,000 pixels wide and high."""

    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rest


def cases() -> list[Case]:
    """Every kind of request; good ones as often as hostile ones."""
    sentence = r"^422 This file .*\.$"
    large = bytes(MOST_MB * 1_000_000 + 100_000)
    bombs = [bomb(), gzip.compress(bytes(100_000_000)), b"\x1f\x8b" + bytes(500)]
    form = b'--cut\r\nContent-Disposition: form-data; name="f"; filename="../../x.png"\r\n\r\n'
    good = [
        Case("slice", False, lambda c, r: ask(c, png(r)), "^200 .*pixels"),
        Case("slice again", False, lambda c, r: ask(c, png(r, (90, 70))), "^200 .*70 x 90 pixels"),
        Case("volume", False, lambda c, r: ask(c, volume(r)), "^200 .*NIfTI volume"),
        Case("another slice", False, lambda c, r: leafed(c, volume(r)), "^200 .*slice 1 of"),
        Case("page", False, lambda c, _: _text(c.get("/")), "^200 .*tumorlens"),
    ]
    hostile = [
        Case("noise", True, lambda c, r: ask(c, r.randbytes(5000)), sentence),
        Case("empty", True, lambda c, _: ask(c, b""), sentence),
        Case("cut slice", True, lambda c, r: ask(c, png(r)[:500]), sentence),
        Case("bomb", True, lambda c, r: ask(c, r.choice(bombs)), sentence),
        Case("script", True, lambda c, _: ask(c, b"<svg onload=alert(1)>"), sentence),
        Case("DICOM head", True, lambda c, r: ask(c, _dicom(r)), sentence),
        Case("too large", True, lambda c, _: ask(c, large), "^413 This file has more"),
        Case(
            "form with a path",
            True,
            lambda c, _: ask(c, form, **{"content-type": "multipart/form-data; boundary=cut"}),
            "^415 Send the file itself",
        ),
        Case(
            "slice that is not there",
            True,
            lambda c, r: ask(c, png(r), "/predict?slice=2"),
            "^404 There is no slice 2",
        ),
        Case(
            "foreign page",
            True,
            lambda c, r: ask(c, png(r), origin="http://evil.example"),
            "^403 Another site",
        ),
        Case("route", True, lambda c, _: _text(c.get("/static/..%2f..%2fetc/passwd")), "^404 Th"),
        Case("volume of another", True, lambda c, _: _text(c.get("/volumes/a/1")), "^410 This"),
        Case("foreign name", True, lambda c, _: _named(c, "evil.example"), "^421 This server"),
    ]
    return [*good * 13, *hostile * 5]


def _dicom(rng: random.Random) -> bytes:
    return bytes(128) + b"DICM" + rng.randbytes(300)


def _named(client: httpx.Client, host: str) -> str:
    return _text(client.get("/", headers={"host": host}))


def _text(got: httpx.Response) -> str:
    plain = re.sub(r"<[^>]+>|\s+", " ", got.text)
    return f"{got.status_code} {plain}"


def resident(pid: int) -> int:
    """The process's resident set, bytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return 1024 * int(found.group(1))


def untrained(folder: Path) -> Path:
    """A checkpoint of an untrained network, for a soak without training."""
    classes = ("glioma", "meningioma", "notumor", "pituitary")
    made = Checkpoint(
        model_name="se_resnet18",
        classes=classes,
        preprocessing=Preprocessing(96, 0.2, 0.2),
        weights=build_model("se_resnet18", 4).state_dict(),
        data=None,
        settings={},
        selected={},
    )
    checkpoints.save(made, folder / "untrained.pt")
    return folder / "untrained.pt"


def served(
    checkpoint: Path, environment: dict[str, str] | None = None
) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    words = ["-m", "tumorlens", "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    words += ["--max_mb", str(MOST_MB), "--threads", "1", "--device", "cpu"]
    server = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"http://\S+", line)
        if found:
            return server, found.group()
    raise SystemExit("The server did not start.")


def soak(address: str, kinds: list[Case], seed: int) -> Iterator[tuple[Case, str, float]]:
    """Send each of `kinds` once, in a random order, by several users at once."""
    rng = random.Random(seed)
    rng.shuffle(kinds)
    client = httpx.Client(base_url=address, timeout=120, trust_env=False)

    def send(numbered: tuple[int, Case]) -> tuple[Case, str, float]:
        number, case = numbered
        began = time.monotonic()
        try:
            got = case.send(client, random.Random(f"{seed}-{number}"))
        except httpx.HTTPError as error:
            got = f"{type(error).__name__}: {error}"
            # A refusal may come before the whole upload is sent, and then the line is closed.
            if case.expected.startswith("^413"):
                got = "413 This file has more, the line was closed"
        return case, got, time.monotonic() - began

    with client, ThreadPoolExecutor(USERS) as pool:
        yield from pool.map(send, enumerate(kinds))


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--warm_up", type=int, default=400)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, address = served(flags.checkpoint or untrained(Path(folder)))
        try:
            result = measured(server.pid, address, flags.warm_up, flags.requests)
            result["server_alive"] = server.poll() is None
        finally:
            server.terminate()
            server.wait(30)
    print(json.dumps(result, indent=2))
    write_json(RESULT, {**result, **facts()})
    if result["faults"] or not result["server_alive"] or result["growth"] > 0.05:
        raise SystemExit(1)


def measured(pid: int, address: str, warm_up: int, requests: int) -> dict[str, object]:
    """What came back, and the server's memory."""
    endless = itertools.cycle(cases())
    first = list(soak(address, list(itertools.islice(endless, warm_up)), seed=0))
    warm = resident(pid)
    began = time.monotonic()
    course = [warm]
    rest = []
    for block in range(5):
        part = list(itertools.islice(endless, requests // 5))
        rest += list(soak(address, part, seed=block + 1))
        course.append(resident(pid))
    seconds = time.monotonic() - began
    faults = Counter(
        f"{case.name}: {got[:200]}"
        for case, got, _ in [*first, *rest]
        if not re.search(case.expected, got)
    )
    times = sorted(taken for _, _, taken in rest)
    return {
        "command": " ".join(["python", *sys.argv]),
        "requests": len(rest),
        "hostile": sum(case.hostile for case, _, _ in rest),
        "by_kind": dict(Counter(case.name for case, _, _ in rest)),
        "faults": dict(faults),
        "users_at_once": USERS,
        "seconds": round(seconds, 1),
        "seconds_median": round(times[len(times) // 2], 3),
        "seconds_99": round(times[int(0.99 * len(times))], 3),
        "warm_up_requests": len(first),
        "resident_mb_after_warm_up": round(warm / 1e6, 1),
        "resident_mb": [round(size / 1e6, 1) for size in course],
        "growth": round(course[-1] / warm - 1, 4),
    }


if __name__ == "__main__":
    main()
