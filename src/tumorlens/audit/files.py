"""The audit's files: audit.json, pairs.csv, groups.csv, audit.html.

The page shows each leaked image beside its near-duplicate, worst first.
"""

import base64
import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tumorlens import __version__
from tumorlens.audit.audit import DUPLICATE_TYPES, Audit, NearestDuplicates, audit
from tumorlens.data.duplicates import INVERSE
from tumorlens.data.folder import SPLITS
from tumorlens.data.hashing import TRANSFORMS
from tumorlens.data.splits import resolve
from tumorlens.files import check_claim, claim, csv_text, write_json, write_manifest, write_text
from tumorlens.progress import Progress, silent
from tumorlens.settings import AuditSettings, primitives

# Rows of one tab. Thumbnails are in the page itself, about 2 KB each; the rest is in pairs.csv.
_MOST_ROWS = 1_000
_MOST_WITHIN = 250  # of near-duplicates within one split, which flatter no score
_QUALITY = 72


def audit_and_write(settings: AuditSettings, progress: Progress = silent) -> Audit:
    """Audit `settings.data_dir` and leave the files and a manifest in `settings.out_dir`.

    Raises:
        TumorlensError: no such folder, no image in it, a splits file or an output folder at fault.
    """
    check_claim(settings.out_dir, "audit")
    source = resolve(
        settings.data_dir,
        settings.splits,
        settings.fold,
        settings.patients,
        every_file=True,
        progress=progress,
    )
    found = audit(source, progress)
    out = settings.out_dir
    claim(out, "audit")
    write_json(out / "audit.json", {"data_dir": str(found.root), **found.to_dict()})
    write_text(out / "pairs.csv", pairs_csv(found))
    # One row an image; images of one group show one image. What --groups reads.
    rows = zip(found.paths, found.groups.tolist(), strict=True)
    write_text(out / "groups.csv", csv_text(["path", "group"], rows))
    write_text(out / "audit.html", page(found))
    write_manifest(out, "audit", settings=primitives(settings))
    return found


def pairs_csv(found: Audit) -> str:
    """One row a pair, see `Audit.table`."""
    table = found.table()
    # 1 says the same bytes, so the best of the others must not be rounded up to it.
    shown = [
        "1" if exact else f"{min(similarity, 0.9999):.4f}"
        for exact, similarity in zip(found.pairs.exact, table["similarity"], strict=True)
    ]
    return csv_text(list(table), zip(*(table | {"similarity": shown}).values(), strict=True))


def page(found: Audit) -> str:
    """The page. Thumbnails of the images in it are inside; nothing is fetched from elsewhere."""
    import jinja2  # noqa: PLC0415 - only the page needs it

    tabs = list(_tabs(found))
    shown = np.unique([row[side] for tab in tabs for row in tab["rows"] for side in (0, 1)])
    place = {int(index): at for at, index in enumerate(shown)}
    for tab in tabs:
        for row in tab["rows"]:
            row[0], row[1] = place[row[0]], place[row[1]]
    data = {
        "tabs": tabs,
        "kinds": list(DUPLICATE_TYPES),
        "transforms": {name: _matrix(name) for name in TRANSFORMS},
        "images": [
            [found.paths[index], str(found.labels[index]), str(found.splits[index]), image]
            for index, image in zip(shown.tolist(), _thumbnails(found, shown), strict=True)
        ],
    }
    text = resources.files("tumorlens.audit").joinpath("templates/audit.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    # In a script element nothing but "</" and "<!" could end it.
    payload = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return environment.from_string(text).render(
        name=found.root.resolve().name,
        version=__version__,
        found=found,
        summary=found.to_dict(),
        kinds=DUPLICATE_TYPES,
        payload=payload,
    )


def _tabs(found: Audit) -> Iterable[dict[str, Any]]:
    for split, other, duplicates in found.leaks():
        title = f"{split} images that {other} has too"
        yield _tab(title, split, other, found, duplicates, _MOST_ROWS)
    conflicts = np.flatnonzero(found.conflicting)
    if len(conflicts):
        pairs = found.pairs
        duplicates = NearestDuplicates(
            pairs.first[conflicts], pairs.second[conflicts], conflicts, np.zeros_like(conflicts)
        )
        title = "near-duplicates with conflicting labels"
        yield _tab(title, "one", "other", found, duplicates, _MOST_ROWS)
    for split in (*SPLITS, ""):
        duplicates = found.duplicates(split, split)
        if len(duplicates):
            title = f"near-duplicates {f'within {split}' if split else 'where there is no split'}"
            earlier = "earlier near-duplicate"
            yield _tab(title, "image", earlier, found, duplicates, _MOST_WITHIN)


def _tab(
    title: str, one: str, other: str, found: Audit, duplicates: NearestDuplicates, most: int
) -> dict[str, Any]:
    pairs = found.pairs
    rows = []
    columns = (duplicates.image, duplicates.duplicate, duplicates.pair, duplicates.others)
    for image, duplicate, pair, others in np.stack(columns, axis=1)[:most].tolist():
        transform = str(pairs.transform[pair])
        forward = duplicate == int(pairs.first[pair])
        # What to do to the duplicate to get the image.
        shown = transform if forward else INVERSE.get(transform, transform)
        kind = DUPLICATE_TYPES.index(str(found.kinds[pair]))
        alike = round(float(pairs.similarity[pair]), 4)
        rows.append([image, duplicate, shown, alike, kind, others])
    return {"title": title, "one": one, "other": other, "total": len(duplicates), "rows": rows}


def _matrix(transform: str) -> str:
    """The CSS transform of a square that turns or mirrors it so."""
    transpose, left_right, up_down = TRANSFORMS[transform]
    across, down = (-1 if left_right else 1), (-1 if up_down else 1)
    # CSS: x' = a x + c y, y' = b x + d y. Transposed first (x and y change places), then mirrored.
    a, b, c, d = (0, down, across, 0) if transpose else (across, 0, 0, down)
    return f"matrix({a},{b},{c},{d},0,0)"


def _thumbnails(found: Audit, shown: npt.NDArray[np.int64]) -> list[str]:
    def encoded(indices: npt.NDArray[np.int64]) -> list[str]:
        made = []
        for index in indices:
            stream = io.BytesIO()
            Image.fromarray(np.asarray(found.images[index])).save(stream, "JPEG", quality=_QUALITY)
            made.append(base64.b64encode(stream.getvalue()).decode("ascii"))
        return made

    with ThreadPoolExecutor() as pool:
        blocks = np.array_split(shown, max(1, len(shown) // 100))
        return [image for block in pool.map(encoded, blocks) for image in block]
