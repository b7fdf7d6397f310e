"""Decisions as files: facts in `tests/golden/`, a case that names them, and the explanation that must come out.

Run it as `python tests/fakes/golden_decisions.py` to write the explanations anew, and read the diff.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from runoff.environment.describe import Environment
from runoff.models.manifest import Manifest, parse_manifest
from runoff.race.decide import Decision, decide
from runoff.race.explain import explain
from runoff.race.record import Record
from runoff.race.wish import Wish

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class Case(msgspec.Struct, forbid_unknown_fields=True):
    """A decision to make.

    Attributes:
        about: what the case shows.
        environment, model, record: names of files below `tests/golden/`.
        chosen: the id of the candidate that must be chosen; None where none is eligible.
    """

    about: str
    environment: str
    model: str
    record: str | None
    chosen: str | None
    wish: Wish = Wish()


def read_environment(name: str) -> Environment:
    return msgspec.json.decode((GOLDEN / "environments" / f"{name}.json").read_bytes(), type=Environment)


def read_model(name: str) -> Manifest:
    return parse_manifest((GOLDEN / "models" / f"{name}.json").read_bytes())


def read_golden_record(name: str) -> Record:
    return msgspec.json.decode((GOLDEN / "records" / f"{name}.json").read_bytes(), type=Record)


def case_names() -> list[str]:
    return sorted(path.stem for path in (GOLDEN / "decisions").glob("*.json"))


def read_case(name: str) -> Case:
    return msgspec.json.decode((GOLDEN / "decisions" / f"{name}.json").read_bytes(), type=Case)


def decide_case(case: Case) -> Decision:
    record = read_golden_record(case.record) if case.record else None
    return decide(read_model(case.model), read_environment(case.environment), case.wish, record)


def explanation_path(name: str) -> Path:
    return GOLDEN / "decisions" / f"{name}.txt"


def main() -> None:
    for name in case_names():
        explanation_path(name).write_text(explain(decide_case(read_case(name))) + "\n")


if __name__ == "__main__":
    sys.exit(main())
