"""The public data sets, fetched, checked and audited: the command download.

"Brain Tumor MRI Dataset", Masoud Nickparvar, from Kaggle by kagglehub; or the one that most of it
is made of (`figshare`). What is fetched is checked before anything lands where the user wants it;
an interrupted download goes on where it stopped.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorlens.audit import figshare
from tumorlens.audit.audit import Audit
from tumorlens.audit.files import audit_and_write
from tumorlens.data.public_patients import KNOWN_COUNTS, Counts
from tumorlens.data.readers import SUFFIXES
from tumorlens.errors import TumorlensError
from tumorlens.files import check_claim, claim, write_manifest
from tumorlens.progress import Progress, silent
from tumorlens.settings import AuditSettings, DownloadSettings, primitives

HANDLE = "masoudnickparvar/brain-tumor-mri-dataset"
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"
PARTS = ("Training", "Testing")
ABOUT_BYTES = 150_000_000

# Title, page and licence of each source.
ABOUT = {
    "kaggle": ("Brain Tumor MRI Dataset by Masoud Nickparvar", PAGE, "as that page states it"),
    "figshare": ("brain tumor dataset by Jun Cheng, 2017", figshare.PAGE, figshare.LICENCE),
}
# Where what came so far is kept: beside the result, so that the last step is a rename.
_UNDER_WAY = ".download"
# Archive and images lie side by side for a while; images are JPEG already and pack to nothing less.
_ROOM = 2.2
_ATTEMPTS = 3


@dataclass(frozen=True)
class Downloaded:
    """What `download` left."""

    data_dir: Path  # has Training/ and Testing/, or the class folders of the figshare set
    counts: Counts  # images by split and class
    checked: bool  # whether the counts are those that are known of the set
    fetched: bool  # False where the set was there already
    audit: Audit  # of it
    audit_dir: Path  # where the audit's files are
    notes: tuple[str, ...] = ()  # what else the user should know, a sentence each


def download(
    settings: DownloadSettings,
    progress: Progress = silent,
    announce: Callable[[int], None] = lambda _size: None,
) -> Downloaded:
    """Fetch, check and audit a public set; where it is there already, check and audit it.

    Args:
        progress: called with the stages of `audit`, and of the figshare set; kagglehub draws a bar
            of its own on stderr.
        announce: called before the first image is fetched or read, with the bytes to come.

    Raises:
        TumorlensError: no network, no room, a folder that is taken, a package is not installed, or
            what came is not the set.
    """
    out, notes = settings.out, tuple[str, ...]()
    check_claim(out, "download")
    check_claim(settings.audit_dir, "audit")
    of_figshare = settings.source == "figshare"
    others = PARTS if of_figshare else figshare.KNOWN_COUNTS["All"]
    if any((out / name).is_dir() for name in others):
        raise TumorlensError(f"--out {out}: has the other set in it; name another folder.")
    needed = (figshare.PATIENTS,) if of_figshare else PARTS
    there = all((out / name).exists() for name in needed)
    if of_figshare:
        if not there:
            notes = _from_figshare(settings, progress, announce)
        counts = figshare.count(out)
        checked = counts == figshare.KNOWN_COUNTS
    else:
        if not there:
            _fetch(settings, announce)
        counts = count(out)
        checked = verify(counts, settings.version, out)
    patients = out / figshare.PATIENTS if of_figshare else None
    chosen = AuditSettings(data_dir=out, out_dir=settings.audit_dir, patients=patients)
    found = audit_and_write(chosen, progress)
    return Downloaded(out, counts, checked, not there, found, settings.audit_dir, notes)


def count(folder: Path) -> Counts:
    """Images in `folder`, by split and class."""
    return {
        split: {
            inside.name: sum(file.suffix.lower() in SUFFIXES for file in inside.iterdir())
            for inside in sorted((folder / split).iterdir())
            if inside.is_dir()
        }
        for split in PARTS
        if (folder / split).is_dir()
    }


def verify(counts: Counts, version: int, folder: Path) -> bool:
    """Compare `counts` with what `version` is known to have; False where nothing is known of it.

    Raises:
        TumorlensError: they differ; says where.
    """
    known = KNOWN_COUNTS.get(version)
    if known is None:
        missing = [part for part in PARTS if not sum(counts.get(part, {}).values())]
        if missing:
            raise TumorlensError(
                f"--out {folder}: no images in {' and '.join(missing)}; version {version} is laid "
                "out in another way, or the download is damaged; try --version 1."
            )
        return False
    wrong = [
        f"{split}/{name} has {there:,} images instead of {number:,}"
        for split, classes in known.items()
        for name, number in classes.items()
        if (there := counts.get(split, {}).get(name, 0)) != number
    ]
    if wrong:
        raise TumorlensError(
            f"--out {folder}: {'; '.join(wrong)}; delete this folder and download again, or name "
            "the --version that it is."
        )
    return True


def _from_figshare(
    settings: DownloadSettings, progress: Progress, announce: Callable[[int], None]
) -> tuple[str, ...]:
    out, source = settings.out, settings.from_dir
    figshare.reader()  # or all would be fetched in vain
    size = figshare.size_of(source)
    with _claimed(out, size, announce):
        beside = out / _UNDER_WAY
        beside.mkdir(exist_ok=True)
        if source is None:
            figshare.fetch(beside, progress)
        notes = figshare.convert(source or beside, beside, out, progress)
    shutil.rmtree(out / _UNDER_WAY)
    _leave_manifest(settings, figshare.PAGE, figshare.LICENCE, figshare.count(out))
    return notes


@contextlib.contextmanager
def _claimed(out: Path, size: int, announce: Callable[[int], None]) -> Iterator[None]:
    """See that there is room and take `out`; where nothing came, an error leaves nothing there."""
    place = next(parent for parent in (out, *out.resolve().parents) if parent.exists())
    free, needed = shutil.disk_usage(place).free, _ROOM * size
    if free < needed:
        raise TumorlensError(
            f"--out {out}: {free / 1e6:,.0f} MB are free there, {needed / 1e6:,.0f} MB are "
            "needed while the archive is unpacked; free some room or name another folder."
        )
    announce(size)
    new = not out.exists()
    claim(out, "download")
    try:
        yield
    except BaseException:
        if new and not any(path.is_file() for path in (out / _UNDER_WAY).rglob("*")):
            shutil.rmtree(out)
        raise


def _leave_manifest(settings: DownloadSettings, source: str, licence: str, counts: Counts) -> None:
    write_manifest(
        settings.out,
        "download",
        settings=primitives(settings),
        source=source,
        licence=licence,
        counts=counts,
    )


def _fetch(settings: DownloadSettings, announce: Callable[[int], None]) -> None:
    out, version = settings.out, settings.version
    with _kagglehub(out, version) as kaggle:
        with _claimed(out, ABOUT_BYTES, announce):
            fetched = _resumed(kaggle, version)
        try:
            verify(count(fetched), version, out)
        except TumorlensError:
            shutil.rmtree(out / _UNDER_WAY)  # or the next attempt would find the same again
            raise
        for split in PARTS:
            (fetched / split).rename(out / split)
        shutil.rmtree(out / _UNDER_WAY)
    _leave_manifest(settings, f"{PAGE}/versions/{version}", f"see {PAGE}", count(out))


def _resumed(kaggle: Any, version: int) -> Path:
    import requests  # noqa: PLC0415 (comes with the extra)

    for _ in range(_ATTEMPTS - 1):
        # Where the line breaks, what came is kept, and the next attempt goes on.
        with contextlib.suppress(
            requests.exceptions.ChunkedEncodingError, requests.exceptions.Timeout
        ):
            return Path(kaggle.dataset_download(f"{HANDLE}/versions/{version}"))
    return Path(kaggle.dataset_download(f"{HANDLE}/versions/{version}"))


@contextlib.contextmanager
def _kagglehub(out: Path, version: int) -> Iterator[Any]:
    """kagglehub with its cache in `out`; its failures as sentences."""
    try:
        import kagglehub  # noqa: PLC0415 (an extra)
        import requests  # noqa: PLC0415
        from kagglehub import exceptions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TumorlensError(
            "download needs the package kagglehub, which is not installed; install the extra: "
            "pip install 'tumorlens[download]'."
        ) from error
    again = "run the same command again and it goes on where it stopped"
    before = os.environ.get("KAGGLEHUB_CACHE")
    os.environ["KAGGLEHUB_CACHE"] = str((out / _UNDER_WAY).absolute())
    try:
        yield kagglehub
    except exceptions.KaggleApiHTTPError as error:
        raise TumorlensError(
            f"Kaggle refuses version {version} of {HANDLE}: {_first(error)}; see {PAGE}."
        ) from error
    except requests.exceptions.HTTPError as error:
        raise TumorlensError(f"Kaggle answers with a fault: {_first(error)}; {again}.") from error
    except exceptions.DataCorruptionError as error:
        raise TumorlensError(
            "the archive that came is damaged and was deleted; run the same command again."
        ) from error
    except requests.exceptions.RequestException as error:
        raise TumorlensError(
            f"Kaggle cannot be reached, or the line broke ({type(error).__name__}): see whether "
            f"there is a network; {again}."
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TumorlensError(
            f"--out {out}: the disk is full; free some room, then {again}."
        ) from error
    finally:
        if before is None:
            del os.environ["KAGGLEHUB_CACHE"]
        else:
            os.environ["KAGGLEHUB_CACHE"] = before


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
