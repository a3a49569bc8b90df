"""Break each promise of `broken_promises.toml` in a copy of the tree, one after the other: its test must go red.

    python tests/broken_promises.py [WORD …]     # those whose sentence has one of the words; default: all

About twenty minutes on one core. A test that is red without the break too would prove nothing: `make test` first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RED, MINUTES = 1, 20
"""pytest's exit status where tests failed; any other than 0 means that none was run."""


@dataclass(frozen=True)
class Break:
    """A promise, the text in `file` that keeps it, what breaks it, and the tests that must notice (`red`)."""

    promise: str
    file: str
    was: str
    becomes: str
    red: str


def breaks() -> list[Break]:
    """Return every break of the list."""
    return [
        Break(**one) for one in tomllib.loads((ROOT / "tests" / "broken_promises.toml").read_text("utf-8"))["break"]
    ]


def noticed(one: Break, tree: Path) -> tuple[bool, str]:
    """Return whether the tests go red with the break in `tree`, which is whole again afterwards, and pytest's words."""
    file = tree / one.file
    whole = file.read_text("utf-8")
    if whole.count(one.was) != 1:
        return False, f"{one.file}: expected {one.was!r} once, found {whole.count(one.was)}"
    file.write_text(whole.replace(one.was, one.becomes), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-n0", "--durations=0", "--durations-min=9999", *one.red.split()]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=MINUTES * 60, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"not through in {MINUTES} minutes"
    finally:
        file.write_text(whole, "utf-8")
    said = [line for line in done.stdout.splitlines() if line.startswith(("E   ", "FAILED", "ERROR"))]
    return done.returncode == RED, (said or done.stdout.splitlines()[-1:] or [done.stderr[-200:]])[0].strip()[:160]


def main(words: list[str]) -> int:
    """Break what was asked for; return how many breaks nothing noticed."""
    chosen = [one for one in breaks() if not words or any(word in one.promise for word in words)]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missed = 0
    with tempfile.TemporaryDirectory(prefix="hemline-broken-") as work:
        tree = Path(work)
        for name in filter(None, tracked.split("\0")):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        for one in chosen:
            began = time.monotonic()
            red, said = noticed(one, tree)
            missed += not red
            print(f"{'red' if red else 'NOT NOTICED'} {time.monotonic() - began:4.0f} s  {one.promise}", flush=True)
            print(f"      {said}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} breaks were noticed")
    return missed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
