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
import threading
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
from tumorlens.checkpoint.file import Checkpoint, Preprocessing
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


def ask(client: httpx.Client, content: bytes, name: str) -> str:
    """Upload and question, as the page does them; the answer's text."""
    sent = client.post("/gradio_api/upload", files={"files": (name, content)})
    if sent.status_code != 200:
        return f"{sent.status_code} {sent.text}"
    return question(client, sent.json()[0])


def question(client: httpx.Client, path: object, url: object = None) -> str:
    """The answer to a question about the upload at `path`."""
    data = {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}
    asked = client.post("/gradio_api/call/answer", json={"data": [data]})
    if asked.status_code != 200:
        return f"{asked.status_code} {asked.text}"
    got = client.get(f"/gradio_api/call/answer/{asked.json()['event_id']}")
    return re.sub(r"<[^>]+>", " ", got.text.replace("\\u003c", "<").replace("\\u003e", ">"))


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
    noise = "client.bin"
    sentence = r"This (file|is|image|volume)"
    large = bytes(MOST_MB * 1_000_000 + 100_000)
    bombs = [bomb(), gzip.compress(bytes(100_000_000)), b"\x1f\x8b" + bytes(500)]
    good = [
        Case("slice", False, lambda c, r: ask(c, png(r), "slice.png"), "pixels"),
        Case("slice again", False, lambda c, r: ask(c, png(r, (90, 70)), "a.png"), "70 x 90 pix"),
        Case("volume", False, lambda c, r: ask(c, volume(r), "head.nii.gz"), "NIfTI volume"),
        Case("name with a path", False, lambda c, r: ask(c, png(r), "../../x.png"), "pixels"),
        Case("page", False, lambda c, _: c.get("/").text, "tumorlens"),
    ]
    hostile = [
        Case("noise", True, lambda c, r: ask(c, r.randbytes(5000), noise), sentence),
        Case("empty", True, lambda c, _: ask(c, b"", noise), sentence),
        Case("cut slice", True, lambda c, r: ask(c, png(r)[:500], "s.png"), sentence),
        Case("bomb", True, lambda c, r: ask(c, r.choice(bombs), "b.png"), sentence),
        Case("script", True, lambda c, _: ask(c, b"<svg onload=alert(1)>", "s.svg"), sentence),
        Case("DICOM head", True, lambda c, r: ask(c, _dicom(r), "d.dcm"), sentence),
        Case("too large", True, lambda c, _: ask(c, large, "large.png"), "^413 More than"),
        Case("file of the server", True, lambda c, _: question(c, "/etc/passwd"), "^400 This"),
        Case("address", True, lambda c, _: question(c, "http://127.0.0.1:9/a.png"), "^400 This"),
        Case("route", True, lambda c, _: _got(c, "/gradio_api/file=/etc/passwd"), "^404 There"),
        Case("foreign name", True, lambda c, _: _got(c, "/", "evil.example"), "^421 This server"),
    ]
    return [*good * 11, *hostile * 5]


def _dicom(rng: random.Random) -> bytes:
    return bytes(128) + b"DICM" + rng.randbytes(300)


def _got(client: httpx.Client, path: str, host: str | None = None) -> str:
    headers = {"host": host} if host else {}
    got = client.get(path, headers=headers)
    return f"{got.status_code} {got.text}"


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


def served(checkpoint: Path) -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, and its address."""
    words = ["-m", "tumorlens", "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    words += ["--max_mb", str(MOST_MB), "--threads", "1", "--device", "cpu"]
    server = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
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
    local = threading.local()

    def send(numbered: tuple[int, Case]) -> tuple[Case, str, float]:
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=address, timeout=120, trust_env=False)
        number, case = numbered
        began = time.monotonic()
        try:
            got = case.send(local.client, random.Random(f"{seed}-{number}"))
        except httpx.HTTPError as error:
            got = f"{type(error).__name__}: {error}"
            # A refusal may come before the whole upload is sent, and then the line is closed.
            if case.expected.startswith("^413"):
                got = "413 More than, the line was closed"
        return case, got, time.monotonic() - began

    with ThreadPoolExecutor(USERS) as pool:
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
