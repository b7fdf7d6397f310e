"""A session made for one batch size, behind a dynamic batch: rows run in chunks, the last one filled up.

Knows sessions and signatures; knows no runtime. So that a package for one batch can win a race and the model that the
user opens still takes any number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from runoff.backends.protocol import Session
from runoff.models.arrays import Array, Arrays, InputCheck, batch_size
from runoff.models.dimensions import batch_dimension, fixed_sizes, with_sizes
from runoff.models.manifest import PackageEntry
from runoff.types import Signature


class RowsSession:
    """Runs any number of rows through a session that takes `rows` of them at a time."""

    def __init__(self, session: Session, signature: Signature, rows: int) -> None:
        self.signature = signature
        self.concurrency: Literal["thread", "exclusive"] = session.concurrency
        self.facts: Mapping[str, Any] = {**session.facts, "rows_at_a_time": rows}
        self._session = session
        self._rows = rows
        self._check = InputCheck(signature)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Compute the outputs by name; see `Session.run`."""
        self._check(inputs)
        total = batch_size(self.signature, inputs)
        if total == self._rows:
            return self._session.run(inputs)
        chunks = []
        for start in range(0, total, self._rows):
            # Rows past the end repeat the last one; their outputs are cut off below.
            rows = np.minimum(np.arange(start, start + self._rows), total - 1)
            chunks.append(self._session.run({name: array[rows] for name, array in inputs.items()}))
        return {name: np.concatenate([chunk[name] for chunk in chunks])[:total] for name in chunks[0]}

    def close(self) -> None:
        """Free what the session holds. Twice is fine."""
        self._session.close()


def with_any_batch(session: Session, entry: PackageEntry, signature: Signature) -> Session:
    """The session, behind a dynamic batch where only its package fixes the batch.

    Args:
        session: one opened from the package.
        entry: the package.
        signature: the model's, with its dynamic dimensions.
    """
    batch = batch_dimension(signature)
    in_rows = all(spec.shape[:1] == (batch,) for spec in (*signature.inputs, *signature.outputs))
    if entry.batch == "dynamic" or batch is None or not in_rows:
        return session
    return RowsSession(session, with_sizes(signature, fixed_sizes(entry)), entry.batch)
