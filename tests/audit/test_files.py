import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.audit.audit import audit
from tumorlens.audit.files import _matrix, audit_and_write, page
from tumorlens.data.hashing import TRANSFORMS, apply
from tumorlens.data.readers import read_grey
from tumorlens.errors import TumorlensError
from tumorlens.image_tables import read_groups
from tumorlens.settings import AuditSettings


@pytest.fixture
def leaky(make_folder: Callable[..., Path]) -> Path:
    """A test image that is a training image turned, and one that is another's bytes."""
    root = make_folder({"train": 4, "test": 2}, size=96)
    first, second = sorted((root / "train" / "glioma").iterdir())[:2]
    turned = np.ascontiguousarray(apply(read_grey(first), "rot90_cw"))
    Image.fromarray(turned).save(root / "test" / "glioma" / "turned.png")
    (root / "test" / "notumor" / "<").mkdir()
    (root / "test" / "notumor" / "<" / "script><b>.png").write_bytes(second.read_bytes())
    return root


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_four_files_and_a_manifest_are_written(leaky: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = audit_and_write(AuditSettings(leaky, out_dir=out))
    assert sorted(path.name for path in out.iterdir()) == [
        "audit.html",
        "audit.json",
        "groups.csv",
        "manifest.json",
        "pairs.csv",
    ]
    pairs = _rows(out / "pairs.csv")
    assert pairs == [
        {
            "path_a": "test/glioma/turned.png",
            "path_b": "train/glioma/glioma000.png",
            "transform": "rot90_ccw",
            "similarity": "0.9999",
            "split_a": "test",
            "split_b": "train",
            "label_a": "glioma",
            "label_b": "glioma",
        },
        {
            "path_a": "test/notumor/</script><b>.png",
            "path_b": "train/glioma/glioma001.png",
            "transform": "identity",
            "similarity": "1",
            "split_a": "test",
            "split_b": "train",
            "label_a": "notumor",
            "label_b": "glioma",
        },
    ]
    groups = read_groups(out / "groups.csv")
    assert set(groups) == set(found.paths)
    assert groups["test/glioma/turned.png"] == groups["train/glioma/glioma000.png"]
    assert len(set(groups.values())) == len(groups) - 2
    assert json.loads((out / "audit.json").read_text())["images"] == 26
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["command"], manifest["complete"]) == ("audit", True)


def test_missing_data_folder_leaves_no_output_folder(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="there is no such folder"):
        audit_and_write(AuditSettings(tmp_path / "gone", out_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_folder_of_somebody_else_is_left_alone(leaky: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(TumorlensError, match="not written by tumorlens"):
        audit_and_write(AuditSettings(leaky, out_dir=tmp_path / "mine"))


def _data_of(html: str) -> dict:
    (payload,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL
    )
    return json.loads(payload)


def test_page_is_one_file_with_each_leaked_image_beside_its_twin(leaky: Path) -> None:
    html = page(audit(leaky))
    assert not re.search(r'(src|href)\s*=\s*["\'](?!data:)', html)  # fetches nothing
    data = _data_of(html)
    leaks, conflicts = data["tabs"]
    assert (leaks["title"], leaks["total"]) == ("test images that train has too", 2)
    names = [[data["images"][row[side]][0] for side in (0, 1)] for row in leaks["rows"]]
    assert names == [
        ["test/notumor/</script><b>.png", "train/glioma/glioma001.png"],
        ["test/glioma/turned.png", "train/glioma/glioma000.png"],
    ]
    # What the page does to the right image makes it the left one.
    assert leaks["rows"][1][2] == "rot90_cw"
    assert conflicts["total"] == 1


def test_file_name_cannot_break_out_of_the_page(leaky: Path) -> None:
    assert "<b>.png" not in page(audit(leaky))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_page_turns_pictures_as_apply_does(transform: str) -> None:
    a, b, c, d, *_ = map(float, _matrix(transform)[7:-1].split(","))
    corners = {(x, y): number for number, (x, y) in enumerate([(-1, -1), (1, -1), (-1, 1), (1, 1)])}
    turned = {(a * x + c * y, b * x + d * y): number for (x, y), number in corners.items()}
    drawn = [[turned[-1, -1], turned[1, -1]], [turned[-1, 1], turned[1, 1]]]
    square = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    np.testing.assert_array_equal(drawn, apply(square, transform))


def test_page_of_many_copies_stays_small(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"train": 4, "test": 2}, classes=("a", "b"))
    original = next((root / "train" / "a").iterdir()).read_bytes()
    for number in range(30):
        (root / "test" / "a" / f"copy{number:02d}.png").write_bytes(original)
    monkeypatch.setattr("tumorlens.audit.files._MOST_ROWS", 7)
    monkeypatch.setattr("tumorlens.audit.files._MOST_WITHIN", 5)
    data = _data_of(page(audit(root)))
    assert [(tab["total"], len(tab["rows"])) for tab in data["tabs"]] == [(30, 7), (29, 5)]
    assert len(data["images"]) < 12


def test_misspelled_path_in_the_splits_file_is_refused_as_evaluate_does(
    leaky: Path, tmp_path: Path
) -> None:
    paths = sorted(path.relative_to(leaky).as_posix() for path in leaky.rglob("*.png"))
    rows = "".join(f"{path},{path.split('/')[0]}\n" for path in paths)
    table = tmp_path / "splits.csv"
    table.write_text("path,split\n" + rows)
    settings = AuditSettings(leaky, out_dir=tmp_path / "out", splits=table)
    assert audit_and_write(settings).count_of("leak") == 2
    table.write_text("path,split\n" + rows.replace("turned.png", "turmed.png"))
    again = AuditSettings(leaky, out_dir=tmp_path / "again", splits=table)
    with pytest.raises(TumorlensError, match="turmed.png: listed, but there is no such file"):
        audit_and_write(again)
    assert not (tmp_path / "again").exists()
    table.write_text("path,split\n" + rows.partition("\n")[2])  # without the first, of test
    found = audit_and_write(AuditSettings(leaky, out_dir=tmp_path / "out", splits=table))
    assert "In no split of --splits" in found.note
    assert "(1 in test/)" in found.note
