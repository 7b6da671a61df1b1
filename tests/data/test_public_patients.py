from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tumorlens.data import public_patients
from tumorlens.data.folder import scan
from tumorlens.data.hashing import apply, fingerprint
from tumorlens.data.patients import PublicTable, overlaps
from tumorlens.data.public_patients import Table, match, rows_of, table
from tumorlens.data.readers import read_grey
from tumorlens.data.splits import resolve
from tumorlens.errors import TumorlensError
from tumorlens.progress import silent

NAME = Path("public-patients")


def test_shipped_table_knows_every_file_and_divides_no_patient_or_group() -> None:
    shipped = table()
    assert shipped.hashes.shape == (7019, 32)
    assert len({row["path"] for row in shipped.rows}) == 7019
    assert len({row["patient"] for row in shipped.rows} - {""}) == 209
    assert Counter(row["fold"] for row in shipped.rows if row["fold"] in ("", "train")) == {
        "": 4,
        "train": 273,
    }
    for column in ("patient", "group"):
        block_of: dict[str, str] = {}
        for row in shipped.rows:
            if row["run"] and row[column]:
                assert block_of.setdefault(row[column], row["run"]) == row["run"]
                assert row["fold"] == str(int(row["run"]) % 5)


def test_every_slice_of_a_known_patient_in_testing_has_its_patient_in_training() -> None:
    rows = [row for row in table().rows if row["patient"]]
    trained = {row["patient"] for row in rows if row["path"].startswith("Training")}
    tested = [row for row in rows if row["path"].startswith("Testing")]
    assert len(tested) == 788
    assert all(row["patient"] in trained for row in tested)


@pytest.fixture
def mapped(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 20 gliomas of 10 patients and 20 notumor images, and a table of them."""
    root = make_folder({"Training": 20}, classes=("glioma", "notumor"), size=96)
    for name in ("glioma", "notumor"):
        (root / "Testing" / name).mkdir(parents=True)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [
        {
            "path": path,
            "patient": f"p{index // 2}" if "glioma" in path else "",
            "site": "letters" if "glioma" in path else "",
            "group": str(index),
            "run": str(index // 2 % 10),
            "fold": str(index // 2 % 5),
        }
        for index, path in enumerate(paths)
    ]
    rows[0] |= {"fold": "train", "run": "", "patient": ""}
    rows[1] |= {"fold": "", "run": "", "patient": "p0"}
    hashes = np.stack([fingerprint(read_grey(root / path)) for path in paths])
    monkeypatch.setattr(
        public_patients, "table", lambda: Table(hashes, tuple(rows), tuple(rows[0]))
    )
    return root


def test_renamed_mirrored_and_halved_files_are_known_by_their_hash(mapped: Path) -> None:
    original = read_grey(mapped / public_patients.table().rows[3]["path"])
    small = np.asarray(Image.fromarray(original).resize((48, 48), Image.Resampling.BILINEAR))
    hashes = np.stack(
        [fingerprint(np.ascontiguousarray(apply(small, "flip_lr"))), fingerprint(original)]
    )
    found = match(("x/renamed.jpg", "y/other.png"), hashes)
    assert found.known.tolist() == [True, True]
    assert found.rows.tolist() == [3, 3]
    assert not found.by_name.any()


def test_name_decides_only_where_the_image_is_near(mapped: Path) -> None:
    shipped = public_patients.table()
    bits = np.unpackbits(shipped.hashes[5])
    bits[2 : 2 + 20 * 5 : 5] ^= 1  # 20 bits: more than near-duplicates differ by
    near = np.packbits(bits)
    path = shipped.rows[5]["path"]
    found = match((path, "else/where.png", path), np.stack([near, near, shipped.hashes[5] ^ 255]))
    assert found.known.tolist() == [True, False, False]
    assert found.by_name.tolist() == [True, False, False]
    assert found.rows[0] == 5


def test_row_of_the_same_name_wins_among_near_duplicates(
    mapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = public_patients.table()
    twice = shipped.hashes.copy()
    twice[7] = twice[6]  # byte-identical duplicates, of which the first one would be the nearest
    monkeypatch.setattr(public_patients, "table", lambda: Table(twice, shipped.rows, ()))
    assert match((shipped.rows[7]["path"],), twice[7:8]).rows.tolist() == [7]


def test_fold_is_the_test_the_next_block_validates_and_unknown_patients_train(
    mapped: Path,
) -> None:
    found = resolve(mapped, NAME, 2, size=32)
    splits = {file.path: file.split for file in found.folder.files}
    for row in public_patients.table().rows:
        expected = {"2": "test", "": None}.get(row["fold"], "train")
        expected = "valid" if row["run"] == "3" else expected
        assert splits.get(row["path"]) == expected
    assert splits[public_patients.table().rows[0]["path"]] == "train"
    assert "40 images known by their hash, 0 by their name" in found.note
    assert "1 that are mislabelled" in found.note


def test_images_that_the_table_does_not_know_are_counted_and_not_used(
    mapped: Path, make_folder: Callable[..., Path]
) -> None:
    others = make_folder({"all": 44}, classes=("glioma",), name="new", size=96)
    for path in sorted((others / "all" / "glioma").iterdir())[30:]:
        path.rename(mapped / "Testing" / "glioma" / f"new-{path.name}")
    found = resolve(mapped, NAME, 2, size=32)
    assert not any("new-" in file.path for file in found.folder.files)
    assert "14 that the table does not know" in found.note


def test_patients_of_predictions_without_images_are_found_by_name(mapped: Path) -> None:
    rows = public_patients.table().rows
    shown = PublicTable().of([rows[4]["path"], "glioma/unknown.png"], None)
    assert shown.names.tolist() == ["p2", ""]
    assert shown.sites is not None
    assert shown.sites.tolist() == ["letters", ""]


def test_withdrawn_folds_are_refused_with_the_reason(mapped: Path) -> None:
    with pytest.raises(TumorlensError, match="withdrawn.*Use --splits public-patients"):
        resolve(mapped, Path("public-folds"), 0, size=32)


def test_wrong_fold_gets_one_sentence(mapped: Path) -> None:
    with pytest.raises(TumorlensError, match="name one with --fold 0"):
        resolve(mapped, NAME, size=32)
    with pytest.raises(TumorlensError, match="has the folds 0, 1, 2, 3, 4, not 5"):
        resolve(mapped, NAME, 5, size=32)


def test_data_that_the_table_does_not_know_gets_one_sentence(
    make_folder: Callable[..., Path],
) -> None:
    with pytest.raises(TumorlensError, match="knows none of the images"):
        resolve(make_folder({"train": 2, "test": 2}), NAME, 0, size=32)


def test_renamed_part_of_the_real_set_keeps_its_splits_and_no_patient_is_in_two(
    real_data: Path, tmp_path: Path
) -> None:
    # A split of the set, linked under other names, as mirrors rename it.
    chosen = [row for row in table().rows if row["fold"]][::29]
    expected = {}
    for number, row in enumerate(chosen):
        new = f"train/{row['path'].split('/')[1]}/image{number}.jpg"
        (tmp_path / "set" / new).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / new).symlink_to(real_data / "brain-tumor-mri" / row["path"])
        expected[new] = "test" if row["fold"] == "3" else "valid" if row["run"] == "4" else "train"
    for label in ("glioma", "notumor"):
        (tmp_path / "set" / "test" / label).mkdir(parents=True)
    found = resolve(tmp_path / "set", NAME, 3, size=32)
    splits = {file.path: file.split for file in found.folder.files}
    assert splits == expected
    rows = {row["path"]: row for row in chosen}
    assert len(rows) == len(chosen)
    names = np.array([row["patient"] for row in chosen])
    assert overlaps(names, np.array(list(expected.values()))) == []


def test_rows_come_under_the_folder_s_own_paths(mapped: Path) -> None:
    shipped = public_patients.table()
    first = shipped.rows[8]["path"]
    (mapped / first).rename(mapped / Path(first).parent / "renamed.png")
    folder = scan(mapped)
    rows, _ = rows_of(str(NAME), 0, folder, 32, silent)
    assert len(rows) == len(folder.files) == 40
    (renamed,) = (row for row in rows if "renamed" in row["path"])
    assert renamed == {**shipped.rows[8], "path": f"{Path(first).parent.as_posix()}/renamed.png"}


def test_site_that_is_left_out_has_gliomas_of_22_people() -> None:
    of_site = [row for row in public_patients.table().rows if public_patients.is_of_site(row)]
    assert len(of_site) == 232
    assert len({row["patient"] for row in of_site}) == 22


def test_site_out_shows_training_no_glioma_of_the_site(
    mapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_patients, "is_of_site", lambda row: row["fold"] in ("1", "2"))
    rows, note = rows_of(public_patients.SITE_OUT, 1, scan(mapped), 32, silent)
    folds = [row["fold"] for row in rows]
    assert "1" in folds
    assert "2" not in folds
    left_out = sum(not row["fold"] for row in rows) - 1  # one is mislabelled
    assert f", {left_out} gliomas of the site that is left out." in note
