import gzip
import unicodedata
from pathlib import Path

import pytest

from tumorlens.errors import TumorlensError
from tumorlens.image_tables import ByPath, read_table

ROWS = [
    {"path": "train/a/1.png", "split": "train", "patient": "Müller"},
    {"path": "test/b/2.png", "split": "test", "patient": "anna, b."},
]
COLUMNS = ["path", "split", "patient"]
PLAIN = 'path,split,patient\ntrain/a/1.png,train,Müller\ntest/b/2.png,test,"anna, b."\n'


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.encode("cp1252"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.removesuffix("\n").encode(),
        PLAIN.replace("path,split,patient", "Path, SPLIT ,Person").encode(),
        PLAIN.replace("path,split,patient", '"path","split","patient"').encode(),
        PLAIN.replace("\n", "\n\n,,\n").encode(),
        ("\n" + PLAIN).encode(),
        PLAIN.replace("\n", ",,,\n").encode(),
        PLAIN.replace("train/a/1.png", ".\\train\\a\\1.png").encode(),
        PLAIN.replace("train/a/1.png", " ./train//a/1.png ").encode(),
        b"path;split;patient\ntrain/a/1.png;train;M\xc3\xbcller\ntest/b/2.png;test;anna, b.\n",
        b"sep=;\npath;split;patient\ntrain/a/1.png;train;M\xfcller\ntest/b/2.png;test;anna, b.",
        "path\tsplit\tpatient\ntrain/a/1.png\ttrain\tMüller\ntest/b/2.png\ttest\tanna, b.".encode(
            "utf-16"
        ),
    ],
)
def test_what_spreadsheets_write_is_one_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    assert read_table(tmp_path / "table.csv", "--splits", ("path",)) == (ROWS, COLUMNS)
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(content))
    assert read_table(tmp_path / "table.csv.gz", "--splits", ("path",)) == (ROWS, COLUMNS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no column `path`; found nothing; expected a CSV with the columns path"),
        (b"\n \n,,\n", "found nothing"),
        (b"file,split\nx,train\n", "no column `path`; found file, split"),
        (b"path,split,Split\nx,train,test\n", "has the column `split` twice"),
        (b"path,exam,examination\nx,1,2\n", "has the column `examination` twice"),
        (b"path,split\na,b.png,train\n", "line 2 has a value without a column; expected path, spl"),
        (b"path,,split\na.png,note,train\n", "line 2 has a value without a column"),
        (b"path,split\n\nx,train\n,test\n", "line 4 has the path ``; expected one relative"),
        (b"path,split\n/data/x.png,train\n", "line 2 has the path `/data/x.png`; expected one rel"),
        (b"path,split\nC:\\data\\x.png,train\n", r"the path `C:\\data\\x.png`; expected one relat"),
        (b"path,split\n\\\\host\\x.png,train\n", "expected one relative"),
        (b"path,split\n../x.png,train\n", "expected one relative"),
        (b"path,split\nx.png,train\n.\\x.png,test\n", "lists x.png more than once; list it once"),
        (b"PK\x03\x04rest of a workbook", "is a workbook or an archive; save it as CSV"),
        ("path,split\nx,train".encode("utf-16-le"), "no text of UTF-8, UTF-16 or Windows-1252"),
        (bytes(range(256)), "cannot be read as CSV"),
    ],
)
def test_what_is_no_table_gets_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(TumorlensError, match=f"--splits .*table.csv: .*{words}"):
        read_table(tmp_path / "table.csv", "--splits", ("path",))


def test_folder_and_missing_file_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="--groups .*: cannot be read as CSV"):
        read_table(tmp_path, "--groups", ("path", "group"))
    with pytest.raises(
        TumorlensError, match="there is no such file; expected a CSV with the colum"
    ):
        read_table(tmp_path / "gone.csv", "--groups", ("path", "group"))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(PLAIN.encode())[:-9])
    with pytest.raises(TumorlensError, match="cannot be read as CSV"):
        read_table(tmp_path / "cut.csv.gz", "--groups", ("path",))


def test_image_may_have_several_boxes(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("path,box_x0\na.png,0.1\na.png,0.2\n")
    rows, _ = read_table(tmp_path / "boxes.csv", "--boxes", ("path",), repeated=True)
    assert [row["box_x0"] for row in rows] == ["0.1", "0.2"]


def test_path_is_the_same_in_both_forms_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (
        unicodedata.normalize(form, "train/Ménière/é.png") for form in ("NFC", "NFD")
    )
    (tmp_path / "table.csv").write_text(f"path,split\n{decomposed},train\n", encoding="utf-8")
    assert read_table(tmp_path / "table.csv", "", ("path",))[0][0]["path"] == composed
    known = ByPath({decomposed: 1})
    assert composed in known
    assert known[composed] == known.get(decomposed) == 1
    assert known.get("x", 0) == 0
