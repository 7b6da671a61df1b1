"""The audit's files: audit.json, pairs.csv, groups.csv, audit.html."""

from pathlib import Path

from tumorlens.audit.audit import Audit, audit
from tumorlens.audit.page import page
from tumorlens.data.splits import resolve
from tumorlens.files import (
    check_claim,
    claim,
    csv_text,
    write_json,
    write_manifest,
    write_text,
)
from tumorlens.progress import Progress, silent
from tumorlens.settings import AuditSettings, primitives


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
    claim(settings.out_dir, "audit")
    write_audit(found, settings.out_dir)
    write_manifest(settings.out_dir, "audit", settings=primitives(settings))
    return found


def write_audit(found: Audit, out_dir: Path) -> None:
    """Write all four into `out_dir`, which is there."""
    write_json(out_dir / "audit.json", {"data_dir": str(found.root), **found.to_dict()})
    write_text(out_dir / "pairs.csv", pairs_csv(found))
    write_text(out_dir / "groups.csv", groups_csv(found))
    write_text(out_dir / "audit.html", page(found))


def pairs_csv(found: Audit) -> str:
    """One row a pair; `transform` is what was done to a to get b, `similarity` is of details."""
    header = ["path_a", "path_b", "transform", "similarity"]
    header += ["split_a", "split_b", "label_a", "label_b"]
    rows = []
    pairs, paths = found.pairs, found.paths
    splits, labels = found.splits.tolist(), found.labels.tolist()
    for a, b, transform, similarity, exact in zip(
        pairs.first.tolist(),
        pairs.second.tolist(),
        pairs.transform.tolist(),
        pairs.similarity.tolist(),
        pairs.exact.tolist(),
        strict=True,
    ):
        # 1 says the same bytes, so the best of the others must not be rounded up to it.
        shown = "1" if exact else f"{min(similarity, 0.9999):.4f}"
        rows.append(
            [paths[a], paths[b], transform, shown, splits[a], splits[b], labels[a], labels[b]]
        )
    return csv_text(header, rows)


def groups_csv(found: Audit) -> str:
    """One row an image; images of one group show one image. What --groups reads."""
    return csv_text(["path", "group"], zip(found.paths, found.groups.tolist(), strict=True))
