from pathlib import Path

import pytest

from tumorlens.errors import TumorlensError
from tumorlens.settings import TrainSettings
from tumorlens.settings.recipe_files import BUILT_IN, read_changes, read_recipe, write_recipe
from tumorlens.training.recipes import RECIPES, keys_of, recipe_of, resolve

SMALL = """
image_size = 32
epochs = 2
batch_size = 4
schedule = "cosine"
patience = 2
[optimizer]
name = "sgd"
lr = 0.01
[augmentation]
flip = false
rotation = 3
"""


def _settings(**given: object) -> TrainSettings:
    return TrainSettings(model="resnet18", data_dir=Path("data"), **given)  # type: ignore[arg-type]


def test_known_recipes_are_what_results_were_made_with() -> None:
    fast = RECIPES["fast"]
    assert (fast.optimizer, fast.lr, fast.weight_decay) == ("sgd", 0.05, 5e-4)
    assert (fast.label_smoothing, fast.averaging, fast.augmentation.gamma) == (0.1, 0.99, 0.3)
    assert RECIPES["paper"].image_size == 224
    assert RECIPES["robust"].standardise
    assert not RECIPES["plain"].crop_head


@pytest.mark.parametrize("name", BUILT_IN)
def test_recipe_that_is_written_is_read_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(write_recipe(keys_of(RECIPES[name]), {"seed": 3}), encoding="utf-8")
    values, run = read_recipe(str(path))
    assert recipe_of(values) == RECIPES[name]
    assert run == {"seed": 3}


def test_own_file_then_set_then_flags(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(SMALL, encoding="utf-8")
    found = resolve(_settings(recipe=str(path), set=("optimizer.lr=0.02", "epochs=5"), epochs=7))
    assert (found.epochs, found.lr, found.schedule) == (7, 0.02, "cosine")
    assert found.augmentation.rotation == 3.0
    assert not found.augmentation.flip


def test_run_table_gives_flags_that_were_not_given(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(SMALL + '[run]\nmodel = "se_resnet18"\ndata_dir = "there"\nseed = 4\n', "utf-8")
    found = TrainSettings(recipe=str(path), seed=9)
    assert (found.model, found.data_dir, found.seed) == ("se_resnet18", Path("there"), 9)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL.replace("sgd", "adamw"), "optimizer.name is 'adamw', expected one of adam, sgd"),
        (SMALL.replace("0.01", "-1"), "optimizer.lr is -1.0, expected a number from"),
        (SMALL + "turn = 3\n", "there is no key augmentation.turn"),
        (SMALL.replace("epochs = 2", ""), "has no epochs"),
        (SMALL.replace("epochs = 2", "epochs = true"), "epochs is True, expected a whole number"),
        (SMALL.replace("epochs = 2", "epochs = 2.5"), "epochs is 2.5, expected a whole number"),
        ("epochs 2", "is no TOML"),
        (SMALL + "[run]\nspeed = 3\n", "there is no flag --speed"),
    ],
)
def test_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((TumorlensError, ValueError), match=told):
        _settings(recipe=str(path))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("optimizer.weight_decya=1", "did you mean optimizer.weight_decay"),
        ("epochs", "expected KEY=VALUE"),
        ("epochs=many", "epochs is 'many', expected a whole number from 1"),
        ("augmentation.flip=1", "expected true or false"),
    ],
)
def test_change_that_is_none_is_refused(word: str, told: str) -> None:
    with pytest.raises(TumorlensError, match=told):
        read_changes((word,))


def test_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(TumorlensError, match=r"expected fast, plain, robust, paper, or a \.toml"):
        _settings(recipe="faster")
