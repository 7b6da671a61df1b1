from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import public_folds
from tumorlens.data.fingerprint import apply, fingerprint
from tumorlens.data.public_folds import PublicMap, assignment, known, public_map, public_parts
from tumorlens.data.readers import read_grey
from tumorlens.data.splits import assignment as written
from tumorlens.errors import TumorlensError


def test_shipped_map_is_whole_and_keeps_groups_and_runs_together() -> None:
    table = public_map()
    assert table.fingerprints.shape == (5708, 32)
    assert len(set(table.paths)) == 5708
    assert Counter(path.split("/")[1] for path in table.paths) == {
        "glioma": 1321,
        "meningioma": 1339,
        "notumor": 1591,
        "pituitary": 1457,
    }
    assert set(table.runs.tolist()) == set(range(-1, 10))
    run_of: dict[str, int] = {}
    for group, run in zip(table.groups, table.runs.tolist(), strict=True):
        assert run_of.setdefault(group, run) == run
    assert sum(bool(name) for name in table.slices) == 3962


@pytest.fixture
def mapped(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 20 "patients'" slices a class and 10 other pictures, and a map of them."""
    root = make_folder({"Training": 20}, classes=("glioma", "notumor"), size=96)
    (root / "Testing" / "glioma").mkdir(parents=True)
    (root / "Testing" / "notumor").mkdir()
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    table = PublicMap(
        fingerprints=np.stack([fingerprint(read_grey(root / path)) for path in paths]),
        paths=tuple(paths),
        slices=tuple(f"glioma-{i}" if "glioma" in path else "" for i, path in enumerate(paths)),
        mirrored=np.zeros(40, dtype=bool),
        groups=tuple(map(str, range(40))),
        runs=np.array([i % 10 if i % 20 < 18 else -1 for i in range(40)]),
    )
    monkeypatch.setattr(public_folds, "public_map", lambda: table)
    return root


def test_renamed_mirrored_and_halved_files_are_known_by_their_picture(mapped: Path) -> None:
    original = read_grey(mapped / public_folds.public_map().paths[3])
    small = np.asarray(Image.fromarray(original).resize((48, 48), Image.Resampling.BILINEAR))
    prints = np.stack(
        [fingerprint(np.ascontiguousarray(apply(small, "flip_lr"))), fingerprint(original)]
    )
    found = known(("x/renamed.jpg", "y/other.png"), prints)
    assert found.found.tolist() == [True, True]
    assert found.rows.tolist() == [3, 3]
    assert not found.by_name.any()


def test_name_decides_only_where_the_picture_is_near(mapped: Path) -> None:
    table = public_folds.public_map()
    bits = np.unpackbits(table.fingerprints[5])
    bits[2 : 2 + 20 * 5 : 5] ^= 1  # 20 bits: more than SAME_PICTURE
    near = np.packbits(bits)
    found = known(
        (table.paths[5], "else/where.png", table.paths[5]),
        np.stack([near, near, table.fingerprints[5] ^ 255]),
    )
    assert found.found.tolist() == [True, False, False]
    assert found.by_name.tolist() == [True, False, False]
    assert found.rows[0] == 5


def test_fold_tests_its_runs_and_leaves_purged_images_out(mapped: Path) -> None:
    found = public_parts(mapped, 2)
    table = public_folds.public_map()
    for path, run in zip(table.paths, table.runs.tolist(), strict=True):
        expected = {2: "test", 7: "test", 3: "valid"}.get(run, "train") if run >= 0 else None
        assert found.parts.get(path) == expected
    assert "36 images" not in found.note
    assert "40 images known by their picture" in found.note
    assert "4 too near" in found.note


def test_copies_take_the_run_and_strangers_are_left_out_or_dealt_by_class(
    mapped: Path, make_folder: Callable[..., Path]
) -> None:
    table = public_folds.public_map()
    mirrored = np.ascontiguousarray(apply(read_grey(mapped / table.paths[2]), "flip_lr"))
    Image.fromarray(mirrored).save(mapped / "Testing" / "glioma" / "copy.png")
    strangers = make_folder({"all": 44}, classes=("glioma", "notumor"), name="new", size=96)
    for name in ("glioma", "notumor"):
        for path in sorted((strangers / "all" / name).iterdir())[30:]:
            path.rename(mapped / "Testing" / name / f"new-{path.name}")
    found = public_parts(mapped, 2)
    assert found.parts["Testing/glioma/copy.png"] == "test"
    new = {path: part for path, part in found.parts.items() if "new-" in path}
    assert all("notumor" in path for path in new)
    assert len(new) == 14
    assert set(new.values()) == {"train", "valid", "test"}
    assert "14 dealt to the folds" in found.note
    assert "14 whose patient is not known" in found.note


def test_splits_flag_takes_the_name_or_a_file(mapped: Path, tmp_path: Path) -> None:
    parts, note = assignment(Path("public-folds"), 0, mapped)
    assert parts == public_parts(mapped, 0).parts
    assert note
    (tmp_path / "s.csv").write_text("path,split\na.png,train\n")
    assert assignment(tmp_path / "s.csv", None, mapped) == ({"a.png": "train"}, "")


def test_wrong_fold_gets_one_sentence(mapped: Path) -> None:
    with pytest.raises(TumorlensError, match="name one with --fold 0"):
        assignment(Path("public-folds"), None, mapped)
    with pytest.raises(TumorlensError, match="--fold 5: public-folds has the folds 0, 1, 2, 3, 4"):
        public_parts(mapped, 5)


def test_data_that_the_map_does_not_know_gets_one_sentence(
    make_folder: Callable[..., Path],
) -> None:
    with pytest.raises(TumorlensError, match="knows none of the images"):
        public_parts(make_folder({"train": 2, "test": 2}), 0)


def test_parts_of_the_real_set_are_those_of_its_annotations(
    real_data: Path, tmp_path: Path
) -> None:
    # A part of the set, linked under other names, as mirrors rename it.
    rows = written(real_data / "annotations_training.csv", 3)
    chosen = sorted(rows)[::29]
    renamed = {}
    for number, path in enumerate(chosen):
        new = f"train/{path.split('/')[1]}/image{number}.jpg"
        (tmp_path / "set" / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / new).symlink_to(real_data / "brain-tumor-mri" / path)
        renamed[new] = rows[path]
    for label in ("glioma", "notumor"):
        (tmp_path / "set" / "test" / label).mkdir(parents=True)
    found = public_parts(tmp_path / "set", 3)
    assert found.parts == renamed
