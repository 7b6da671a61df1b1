import json
from pathlib import Path

import pytest

from tumorlens.comparison.run_files import predictions_file, read_run, read_study, run_name
from tumorlens.errors import TumorlensError
from tumorlens.files import write_text


def test_name_says_network_protocol_fold_and_seed() -> None:
    assert run_name("resnet18", "official", None, 2) == "resnet18-official-seed2"
    assert run_name("se_resnet18", "folds", 4, 0) == "se_resnet18-folds-fold4-seed0"


def test_run_is_finished_when_both_of_its_files_are_there(tmp_path: Path) -> None:
    name = "resnet18-folds-fold1-seed3"
    record = {"what": "tumorlens study run", "model": "resnet18", "protocol": "folds"}
    assert read_run(tmp_path, name) is None
    (tmp_path / f"{name}.json").write_text(json.dumps(record | {"fold": 1, "seed": 3}))
    assert read_run(tmp_path, name) is None
    (tmp_path / f"{name}-predictions.csv").write_text("path,label,prob_a,prob_b\n1,a,1,0\n")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "half.json").write_text('{"what": "tumo')
    (run,) = read_study(tmp_path)
    assert (run.name, run.model, run.fold, run.seed) == (name, "resnet18", 1, 3)
    assert run.predictions().paths == ("1",)


def test_compressed_predictions_are_read_and_written_with_the_same_bytes(tmp_path: Path) -> None:
    name = "resnet18-folds-fold1-seed3"
    record = {"what": "tumorlens study run", "model": "resnet18", "protocol": "folds"}
    (tmp_path / f"{name}.json").write_text(json.dumps(record | {"fold": 1, "seed": 3}))
    file = predictions_file(tmp_path, name)
    assert file.name == f"{name}-predictions.csv.gz"
    write_text(file, "path,label,prob_a,prob_b\n1,a,1,0\n")
    first = file.read_bytes()
    write_text(file, "path,label,prob_a,prob_b\n1,a,1,0\n")
    assert file.read_bytes() == first
    (run,) = read_study(tmp_path)
    assert run.predictions().paths == ("1",)
    file.write_bytes(first[:-6])
    with pytest.raises(TumorlensError, match="cannot be read as CSV"):
        run.predictions()


def test_folder_without_runs_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(TumorlensError, match="holds no finished run of a study"):
        read_study(tmp_path)
