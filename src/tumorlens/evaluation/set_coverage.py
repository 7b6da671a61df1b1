"""How often a conformal set of classes has the true class, and how large the sets are."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tumorlens.errors import TumorlensError
from tumorlens.evaluation.predictions import Predictions
from tumorlens.evaluation.subgroups import SubgroupRecall, recall_by
from tumorlens.uncertainty.conformal import in_sets
from tumorlens.uncertainty.decision import DecisionRule


@dataclass(frozen=True)
class SetCoverage:
    """Sets of all images, for each class."""

    wanted: float  # share of the images of every class whose set shall have the true one
    # by_class, by_site: of a class's images, and of those of each site, where sites are known;
    # `recall` is the share whose set has the class
    by_class: tuple[SubgroupRecall, ...] = ()
    by_site: tuple[SubgroupRecall, ...] = ()
    # mean number of classes in a set, of the same images, by (class, site); the site is "" for all
    sizes: dict[tuple[str, str], float] = field(default_factory=dict)
    reason: str = ""  # why there are no sets; "" where there are

    @property
    def sentence(self) -> str:
        """In short."""
        if self.reason:
            return f"No sets of classes: {self.reason}"
        told = ", ".join(
            f"{one.label} {one.recall.value:.3f} ({self.sizes[one.label, '']:.2f} classes a set)"
            for one in self.by_class
        )
        return f"Sets of classes that shall have the true one in {self.wanted:.0%}: {told}."

    def to_dict(self) -> dict[str, Any]:
        """As primitives."""
        rows = [("", one) for one in self.by_class] + [(one.subgroup, one) for one in self.by_site]
        return {
            "wanted": self.wanted,
            "reason": self.reason,
            "rows": [
                {
                    "class": one.label,
                    "site": site,
                    "coverage": one.recall.to_dict(),
                    "mean_size": self.sizes[one.label, site],
                    "patients": one.patients,
                }
                for site, one in rows
            ],
        }


def set_coverage(
    predictions: Predictions, rule: DecisionRule, wanted: float, *, resamples: int, seed: int
) -> SetCoverage:
    """Sets of `predictions` and how often they hold; or why there are none."""
    try:
        least = rule.at(wanted).least
    except TumorlensError as why:
        return SetCoverage(wanted, reason=str(why))
    assert least is not None
    sets = in_sets(predictions.probabilities, least)
    held = sets[np.arange(len(sets)), predictions.labels].astype(np.float64)
    names = np.array(predictions.classes)[predictions.labels]
    known = predictions.sites
    found, sizes = [], {}
    for sites in (("all",) * len(sets), known):
        rows = recall_by(predictions, sites, hits=held, resamples=resamples, seed=seed)
        for one in rows:
            inside = (names == one.label) & (np.array(sites) == one.subgroup)
            site = one.subgroup if sites is known else ""
            sizes[one.label, site] = float(sets[inside].sum(axis=1).mean())
        found.append(rows)
    return SetCoverage(wanted, found[0], found[1], sizes)
