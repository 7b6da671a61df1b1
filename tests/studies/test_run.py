import pytest

from tumorlens.studies import run


def test_code_is_the_commit_that_the_process_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    head = iter(["abc1234", "def5678"])

    def git(*words: str) -> str | None:
        return next(head) if words[0] == "rev-parse" else ""

    monkeypatch.setattr(run, "_git", git)
    run.code.cache_clear()
    try:
        assert run.code() == {"commit": "abc1234", "changed_since": False}
        assert run.code() == {"commit": "abc1234", "changed_since": False}
    finally:
        run.code.cache_clear()
