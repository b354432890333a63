"""infra/nightly.sh: which step follows which exit code. A script in place of m3 answers with codes from a list.

That the real m3 knows each command and option: test_commands.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.infra.places import INFRA

SCRIPT = INFRA / "nightly.sh"
LIVE = ["plan", "embed", "load", "audit"]
NEXT = ["generations build", "generations promote --dry-run", "generations promote"]
# Writes what it was asked and ends with the code that is next in line for this command.
FAKE = """#!/bin/sh
echo "$*" >> "{folder}/asked"
code=$(sed -n "s/^$1 //p" "{folder}/codes" | sed -n "$(grep -c "^$1 " "{folder}/asked")p")
exit "${{code:-0}}"
"""


def night(folder: Path, codes: str = "", **variables: str) -> tuple[int, list[str]]:
    """Exit code of a night, and what was asked."""
    (folder / "codes").write_text(codes)
    (folder / "asked").write_text("")
    fake = folder / "m3"
    fake.write_text(FAKE.format(folder=folder))
    fake.chmod(0o755)
    env = os.environ | {"M3": str(fake), "M3_CONFIG": "m3.toml", "M3_WAIT": "0", **variables}
    done = subprocess.run([str(SCRIPT)], check=False, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, (folder / "asked").read_text().splitlines()


def test_a_good_night_goes_through_the_steps(tmp_path: Path) -> None:
    code, asked = night(tmp_path)
    assert code == 0
    assert asked == [f"{step} -c m3.toml" for step in LIVE]


def test_another_generation_is_built_asked_and_promoted(tmp_path: Path) -> None:
    code, asked = night(tmp_path, M3_NEXT_CONFIG="next.toml", M3_GATE="q.jsonl")
    assert code == 0
    questions = " --queries q.jsonl --min ndcg@10=0.60 --as default:everyone"
    assert asked[4:] == [f"{step}{questions if 'promote' in step else ''} -c next.toml" for step in NEXT]


def test_a_store_that_is_down_is_waited_for(tmp_path: Path) -> None:
    code, asked = night(tmp_path, "load 4\nload 7\nload 0\n")
    assert code == 0
    assert [line.split()[0] for line in asked] == ["plan", "embed", "load", "load", "load", "audit"]


def test_one_that_stays_down_ends_the_night_with_its_code(tmp_path: Path) -> None:
    code, asked = night(tmp_path, "load 4\nload 4\nload 4\n", M3_TRIES="3")
    assert code == 4
    assert sum(line.startswith("load") for line in asked) == 3


def test_rows_of_a_later_run_do_not_end_every_night_in_silence(tmp_path: Path) -> None:
    code, asked = night(tmp_path, "load 6\nload 6\n", M3_TRIES="2")
    assert code == 6
    assert len(asked) == 4


@pytest.mark.parametrize("code", [1, 2, 5, 143])
def test_what_trying_again_does_not_mend_ends_the_night(tmp_path: Path, code: int) -> None:
    ended, asked = night(tmp_path, f"embed {code}\n")
    assert ended == code
    assert len(asked) == 2


def test_drift_is_not_promoted(tmp_path: Path) -> None:
    code, asked = night(tmp_path, "audit 8\n", M3_NEXT_CONFIG="next.toml")
    assert code == 8
    assert len(asked) == 4


def test_dead_letters_are_told_and_end_the_night_only_where_asked(tmp_path: Path) -> None:
    assert night(tmp_path, "embed 3\n")[0] == 0
    code, asked = night(tmp_path, "embed 3\n", M3_STRICT="1")
    assert code == 3
    assert len(asked) == 4


def test_a_night_beside_another_run_is_skipped(tmp_path: Path) -> None:
    code, asked = night(tmp_path, "embed 6\n")
    assert code == 0
    assert len(asked) == 2


def test_a_signal_reaches_the_command_and_its_code_is_the_nights(tmp_path: Path) -> None:
    fake = tmp_path / "m3"
    fake.write_text(
        f"#!/bin/sh\ntrap 'echo stopped > {tmp_path}/stopped; exit 143' TERM\n"
        f"touch {tmp_path}/running\nwhile :; do sleep 0.05; done\n"
    )
    fake.chmod(0o755)
    process = subprocess.Popen([str(SCRIPT)], env=os.environ | {"M3": str(fake)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (tmp_path / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "stopped").exists()
