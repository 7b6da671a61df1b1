"""A process that measures what it is asked for: peers with their own settings take turns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def serve(facts: dict[str, Any], answer: Callable[..., dict[str, Any]]) -> None:
    """In the process: tell facts, then answer each line of words until there is none."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(*line.split())), flush=True)


class Worker:
    """The process, from outside.

    Args:
        command: its words.
        environment: variables that it has besides ours; None: that it has not.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str | None]) -> None:
        given = dict(os.environ) | dict(environment)
        self.process = subprocess.Popen(
            command,
            env={name: value for name, value in given.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()

    def ask(self, *words: object) -> dict[str, Any]:
        """What it predictions to a line of words."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
