import pytest

from tumorlens.studies import provenance


def test_code_is_the_commit_that_the_process_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    head = iter(["abc1234", "def5678"])

    def git(*words: str) -> str | None:
        return next(head) if words[0] == "rev-parse" else ""

    monkeypatch.setattr(provenance, "_git", git)
    provenance.code.cache_clear()
    try:
        assert provenance.code() == {"commit": "abc1234", "changed_since": False}
        assert provenance.code() == {"commit": "abc1234", "changed_since": False}
    finally:
        provenance.code.cache_clear()
