"""Train the digits example and write its model folder: `python train.py`, or `--from-weights` to train nothing."""

from __future__ import annotations
