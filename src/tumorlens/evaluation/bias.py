"""Class-wise bias in short: which class is missed, for which other, and in which subgroup."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tumorlens.evaluation import metrics
from tumorlens.evaluation.intervals import Estimate
from tumorlens.evaluation.scores import LARGEST_GAP, Scores
from tumorlens.evaluation.subgroups import LEAST, Gap, Subgroups, SubgroupScores


@dataclass(frozen=True)
class Bias:
    """What the network finds better than what."""

    sentence: str  # all of it in words, without intervals
    # worst_class, best_class: of the smallest and the largest recall; None: there are images of
    # fewer than two classes
    worst_class: str | None
    best_class: str | None
    # the largest share at which one class is taken for another, "a->b"; None: there is no error
    main_confusion: str | None
    # the smallest recall in a subgroup that was tested; None: none was
    worst_subgroup: SubgroupScores | None
    largest_gap: Gap | None  # of the subgroups of one class; None: none was tested
    # by name, what it is in words, and its value with interval
    metrics: dict[str, tuple[str, Estimate]]

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        found = {name: {"label": w, **one.to_dict()} for name, (w, one) in self.metrics.items()}
        whole = {name: getattr(self, name) for name in ("worst_subgroup", "largest_gap")}
        whole = {name: one.to_dict() if one else None for name, one in whole.items()}
        return {**vars(self), **whole, "metrics": found}


def bias(scores: Scores, subgroups: Subgroups) -> Bias:
    """Class-wise bias of all images."""
    found, worst, gap = scores.all.metrics, subgroups.worst, subgroups.largest_gap
    rates = [name for name in metrics.confusion_rates(scores.classes) if found[name].value > 0]
    main = max(rates, key=lambda name: found[name].value, default=None)
    words = {f"recall_{name}": f"recall of {name}" for name in scores.classes}
    if scores.extremes:
        words[LARGEST_GAP] = "largest gap: {1} minus {0}".format(*scores.extremes)
    named = [main] if main else []
    if scores.bias_pair:
        one, other = scores.bias_pair
        words[f"recall_gap_{other}_minus_{one}"] = f"gap: {other} minus {one}"
        named += [f"{one}->{other}", f"{other}->{one}"]
    words |= {name: "share of {} taken for {}".format(*name.split("->")) for name in named}
    listed = {name: (text, found[name]) for name, text in words.items() if name in found}
    if worst:
        text = f"recall of {worst.label}, {worst.column} {worst.subgroup}"
        listed["worst_subgroup"] = text, worst.recall
    if gap:
        text = f"gap of {gap.label} by {gap.column}: {gap.best} minus {gap.worst}"
        listed["largest_subgroup_gap"] = text, gap.difference
    low, high = scores.extremes or (None, None)
    sentence = " ".join(_sentences(scores, main, subgroups))
    return Bias(sentence, low, high, main, worst, gap, listed)


def _sentences(scores: Scores, main: str | None, subgroups: Subgroups) -> Iterator[str]:
    found, worst, gap = scores.all.metrics, subgroups.worst, subgroups.largest_gap
    if scores.extremes:
        low, high = scores.extremes
        least, most = (found[f"recall_{name}"].value for name in scores.extremes)
        yield f"Recall is lowest for {low} ({least:.3f}) and highest for {high} ({most:.3f})."
        if found[LARGEST_GAP].low <= 0:
            yield "This gap is not statistically significant."
    if main:
        true, taken = main.split("->")
        yield f"The main confusion: {found[main].value:.1%} of {true} are taken for {taken}."
    if not worst or not gap:
        yield f"No subgroups are compared: that takes two of a class with {LEAST} patients each."
        return
    differs = "differs significantly" if worst.significant else "does not differ significantly"
    yield (
        f"The worst class in a subgroup is {worst.label} with {worst.column} {worst.subgroup}: "
        f"recall {worst.recall.value:.3f}."
    )
    yield (
        f"It {differs} from its other subgroups (p = {worst.p_holm:.2g}, Holm over "
        f"{subgroups.tests} tests)."
    )
    if gap.explained.value > 0:
        yield (
            f"The largest gap within a class is that of {gap.label} by {gap.column}: with the "
            f"recall of {gap.best} everywhere, {gap.explained.value:.0%} of its misses would go "
            f"(by chance {gap.explained_by_chance:.0%})."
        )
