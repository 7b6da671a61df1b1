import tracemalloc
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, roc_auc_score

from tumorlens.comparison.paired import Pair, compare, pair_up
from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions

CLASSES = ("glioma", "meningioma", "notumor", "pituitary")


def _predictions(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray | None = None,
    source: str = "net",
    noise: int | None = None,
) -> Predictions:
    """Predictions with 0.7 for the class taken; with `noise` every probability is unlike any."""
    probabilities = np.full((len(labels), len(CLASSES)), 0.1)
    probabilities[np.arange(len(labels)), predicted] = 0.7
    if noise is not None:
        probabilities += np.random.default_rng(noise).uniform(0, 0.05, probabilities.shape)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Predictions(
        source=source,
        classes=CLASSES,
        paths=tuple(f"{index}.png" for index in range(len(labels))),
        labels=labels,
        probabilities=probabilities,
        groups=None if groups is None else tuple(map(str, groups)),
    )


def _wrong(labels: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, (labels + 1) % 4, labels)


def test_known_counts_give_known_differences_and_mcnemars_p() -> None:
    labels = np.repeat([0, 1, 2, 3], 50)
    before, after = labels.copy(), labels.copy()
    before[:20] = 1  # 20 gliomas taken for meningiomas; the second network finds 15 of them
    after[15:20] = 1
    after[20:22] = 1  # and loses two
    after[50:53] = 0  # and takes three meningiomas for gliomas
    found = compare([Pair(_predictions(labels, before), _predictions(labels, after))], ("A", "B"))
    gain = found.differences
    assert gain["recall_glioma"].value == pytest.approx(13 / 50)
    assert gain["recall_glioma"].a == pytest.approx(30 / 50)
    assert gain["recall_meningioma"].value == pytest.approx(-3 / 50)
    assert gain["accuracy"].value == pytest.approx(10 / 200)
    assert gain["tumor_accuracy"].value == pytest.approx(10 / 150)
    assert gain["glioma->meningioma"].value == pytest.approx(-13 / 50)
    assert gain["meningioma->glioma"].value == pytest.approx(3 / 50)
    assert gain["recall_pituitary"].value == 0
    (tests,) = found.mcnemar
    assert (tests["glioma"]["b_only"], tests["glioma"]["a_only"]) == (15, 2)
    assert tests["glioma"]["p"] == pytest.approx(2 * sum((1, 17, 136)) / 2**17)
    assert tests["all"]["b_only"] == 15
    assert tests["all"]["a_only"] == 5
    assert gain["recall_glioma"].p == tests["glioma"]["p"]
    assert gain["recall_glioma"].test == "exact McNemar"
    assert gain["recall_glioma"].better > 0.99
    assert gain["glioma->meningioma"].better > 0.99  # fewer mistakes are better
    assert gain["meningioma->glioma"].better < 0.2
    assert found.bias_pair == ("glioma", "meningioma")
    assert (found.images, found.unit, found.runs) == (200, "200 images", 1)


def test_every_figure_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 120)
    a = _predictions(labels, _wrong(labels, rng.random(120) < 0.3), noise=1)
    b = _predictions(labels, _wrong(labels, rng.random(120) < 0.2), noise=2)
    gain = compare([Pair(a, b)], ("A", "B"), resamples=100).differences
    for predictions, side in ((a, "a"), (b, "b")):
        predicted = predictions.probabilities.argmax(axis=1)
        assert getattr(gain["macro_f1"], side) == pytest.approx(
            f1_score(labels, predicted, average="macro")
        )
        precision = precision_score(labels, predicted, average=None)
        for index, name in enumerate(CLASSES):
            assert getattr(gain[f"precision_{name}"], side) == pytest.approx(precision[index])
            assert getattr(gain[f"auroc_{name}"], side) == pytest.approx(
                roc_auc_score(labels == index, predictions.probabilities[:, index])
            )


def test_network_against_itself_is_no_difference_with_a_width() -> None:
    labels = np.repeat([0, 1, 2, 3], 20)
    predictions = _predictions(labels, _wrong(labels, np.arange(80) % 7 == 0))
    found = compare([Pair(predictions, predictions)], ("A", "A"), resamples=200)
    for name, one in found.differences.items():
        assert one.value == 0, name
        assert one.low <= 0 <= one.high
        assert one.p == 1, name
        assert one.better == pytest.approx(0.5)
    recall = found.differences["recall_glioma"]
    assert recall.high == pytest.approx(1.96**2 / (20 + 1.96**2), abs=1e-3)


def test_turning_the_two_round_turns_every_sign() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 200)
    a = _predictions(labels, _wrong(labels, rng.random(200) < 0.3), noise=1)
    b = _predictions(labels, _wrong(labels, rng.random(200) < 0.2), noise=2)
    forth = compare([Pair(a, b)], ("A", "B"), resamples=300).differences
    back = compare([Pair(b, a)], ("B", "A"), resamples=300).differences
    for name, one in forth.items():
        assert back[name].value == pytest.approx(-one.value)
        assert back[name].low == pytest.approx(-one.high)
        assert back[name].p == pytest.approx(one.p)


def test_copies_widen_the_interval_and_have_one_vote() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(rng.integers(0, 4, 60), 4)
    wrong_a = np.repeat(rng.random(60) < 0.4, 4)
    wrong_b = np.repeat(rng.random(60) < 0.1, 4)
    groups = np.repeat(np.arange(60), 4)

    def of(groups: np.ndarray | None) -> tuple[float, float]:
        pair = Pair(
            _predictions(labels, _wrong(labels, wrong_a), groups),
            _predictions(labels, _wrong(labels, wrong_b), groups),
        )
        found = compare([pair], ("A", "B"), resamples=500)
        one = found.differences["accuracy"]
        return one.high - one.low, one.p

    width_alone, p_alone = of(None)
    width_grouped, p_grouped = of(groups)
    assert width_grouped > 1.6 * width_alone
    assert p_grouped > p_alone


def test_several_seeds_give_mean_spread_and_t_interval() -> None:
    labels = np.repeat([0, 1, 2, 3], 100)
    gains = []
    pairs = []
    for seed, lost in enumerate((30, 20, 16)):
        before, after = labels.copy(), labels.copy()
        before[:40] = 1
        after[:lost] = 1
        gains.append((40 - lost) / 100)
        pairs.append(Pair(_predictions(labels, before), _predictions(labels, after), seed=seed))
    found = compare(pairs, ("A", "B"), resamples=2000)
    one = found.differences["recall_glioma"]
    assert one.value == pytest.approx(mean(gains))
    assert one.std == pytest.approx(stdev(gains))
    reach = 4.302653 * stdev(gains) / np.sqrt(3)
    assert one.t_low == pytest.approx(mean(gains) - reach, abs=1e-4)
    assert one.t_high == pytest.approx(mean(gains) + reach, abs=1e-4)
    # The draws hold both sources of chance, so that they reach further than either alone.
    assert one.high - one.low > 1.99 * reach
    assert (found.seeds, found.folds, found.runs) == (3, 1, 3)
    assert one.test == "draws of images and seeds"
    assert 0.9 < one.better < 1


def test_folds_of_different_size_count_alike() -> None:
    large, small = np.repeat([0, 1, 2, 3], 100), np.repeat([0, 1, 2, 3], 10)
    pairs = []
    for fold, labels in enumerate((large, small)):
        before = labels.copy()
        before[: len(labels) // 8] = 1  # half of the gliomas in both
        after = labels.copy() if fold else before
        pairs.append(
            Pair(_predictions(labels, before), _predictions(labels, after), fold=fold, seed=0)
        )
    found = compare(pairs, ("A", "B"), resamples=200)
    assert found.differences["recall_glioma"].value == pytest.approx((0 + 0.5) / 2)
    assert (found.images, found.folds, found.seeds) == (440, 2, 1)


def test_images_are_put_side_by_side_by_their_paths_and_classes_by_name() -> None:
    labels = np.array([0, 1, 2, 3])
    a = _predictions(labels, labels)
    turned = a.only(np.array([3, 1, 0, 2]))
    turned = replace(
        turned,
        classes=CLASSES[::-1],
        labels=3 - turned.labels,
        probabilities=turned.probabilities[:, ::-1],
    )
    pair = pair_up(a, turned)
    assert pair.b.paths == a.paths
    assert pair.b.labels.tolist() == a.labels.tolist()
    assert (pair.b.probabilities == a.probabilities).all()


def test_different_images_labels_or_classes_are_refused_in_one_sentence() -> None:
    labels = np.array([0, 1, 2, 3])
    a = _predictions(labels, labels, source="one.csv")
    b = _predictions(labels, labels, source="two.csv")
    with pytest.raises(TumorlensError, match="one.csv and two.csv: differ in 1 images .3.png is"):
        pair_up(a, b.only(np.array([0, 1, 2])))
    with pytest.raises(TumorlensError, match="give 0.png different labels"):
        pair_up(a, replace(b, labels=np.array([1, 1, 2, 3])))
    with pytest.raises(TumorlensError, match="on the same classes"):
        pair_up(a, replace(b, classes=("a", "b", "c", "d")))


def test_no_interval_goes_where_no_difference_can() -> None:
    labels = np.repeat([0, 1, 2, 3], 10)
    pairs = [
        Pair(
            _predictions(labels, labels),
            _predictions(labels, _wrong(labels, np.arange(40) % step == 0)),
        )
        for step in (1, 30)  # all wrong with one seed, nearly all right with the other
    ]
    for one in compare(pairs, ("a", "b"), resamples=200).differences.values():
        assert -1 <= one.low <= one.high <= 1
        assert one.t_low is not None
        assert one.t_high is not None
        assert -1 <= one.t_low <= one.t_high <= 1


def test_intervals_cover_the_true_difference_of_one_pair() -> None:
    # Images differ in how hard they are, for both networks alike; truth is what many would give.
    rng = np.random.default_rng(11)
    covered = []
    for trial in range(120):
        labels = np.repeat([0, 1, 2, 3], 40)
        hard = rng.beta(1, 5, 160)
        miss = rng.random(160) < hard, rng.random(160) < hard * 0.5
        pair = Pair(*(_predictions(labels, _wrong(labels, one)) for one in miss))
        one = compare([pair], ("A", "B"), resamples=250, seed=trial).differences
        truth = 0.5 / 6
        covered.append(
            [one[name].low <= truth <= one[name].high for name in ("accuracy", "recall_glioma")]
        )
    share = np.mean(covered, axis=0)
    assert (share > 0.89).all(), share
    assert (share < 1).any(), share


def test_intervals_cover_the_true_mean_difference_of_networks_over_seeds() -> None:
    # Each seed moves a network's error rate; the truth is the mean over all seeds and images.
    rng = np.random.default_rng(12)
    covered, narrow = [], []
    for trial in range(120):
        labels = np.repeat([0, 1, 2, 3], 40)
        hard = rng.beta(1, 5, 160)
        pairs = []
        for seed in range(3):
            rates = 1 + rng.normal(0, 0.3), 0.5 + rng.normal(0, 0.3)
            miss = [rng.random(160) < hard * max(0, rate) for rate in rates]
            pairs.append(
                Pair(*(_predictions(labels, _wrong(labels, one)) for one in miss), seed=seed)
            )
        one = compare(pairs, ("A", "B"), resamples=250, seed=trial).differences["accuracy"]
        truth = 0.5 / 6
        covered.append(one.low <= truth <= one.high)
        alone = compare(pairs[:1], ("A", "B"), resamples=250, seed=trial).differences["accuracy"]
        narrow.append(alone.low <= truth <= alone.high)
    assert 0.91 < np.mean(covered) <= 1
    # One seed's interval knows of images alone, and covers less than it says.
    assert np.mean(narrow) < 0.9


def test_patient_intervals_cover_a_difference_where_image_intervals_do_not() -> None:
    # Ten images of each of 40 patients, whom a network has right or wrong nearly as a whole.
    rng = np.random.default_rng(13)
    labels = np.repeat([0, 1, 2, 3], 100)
    patients = tuple(f"p{index // 10}" for index in range(400))
    covered = {"patients": 0, "images": 0}
    trials = 100
    for trial in range(trials):
        miss = [
            np.repeat(rng.random(40) < rate, 10) ^ (rng.random(400) < 0.02) for rate in (0.4, 0.2)
        ]
        a, b = (_predictions(labels, _wrong(labels, one)) for one in miss)
        truth = (0.4 - 0.2) * 0.96
        for unit, known in (("patients", patients), ("images", None)):
            pair = Pair(*(replace(one, groups=None, patients=known) for one in (a, b)))
            found = compare([pair], ("A", "B"), resamples=250, seed=trial)
            assert found.unit == ("40 patients" if known else "400 images")
            one = found.differences["accuracy"]
            covered[unit] += one.low <= truth <= one.high
    assert covered["patients"] / trials >= 0.88
    assert covered["images"] / trials < 0.75


def test_memory_does_not_grow_with_positives_times_negatives() -> None:
    labels = np.repeat([0, 1, 2, 3], 1000)
    pair = Pair(*(_predictions(labels, labels, noise=seed) for seed in (1, 2)))
    tracemalloc.start()
    try:
        compare([pair], ("A", "B"), resamples=50)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30e6  # a number for each of 1,000 x 3,000 is 24 MB, eight times in all
