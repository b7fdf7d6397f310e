"""A text classifier made in seconds: a small transformer that tells families of modules by their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import runoff
from runoff.export.packaging import PackagingOptions
from runoff.models.folder import ModelFolder

VOCABULARY = 2048
LENGTH = 24
FAMILIES = (
    ("asyncio", "email.message", "ftplib", "http.client", "http.server", "imaplib", "smtplib", "socket", "ssl"),
    ("calendar", "cmath", "datetime", "decimal", "fractions", "heapq", "itertools", "math", "random", "statistics"),
)
"""Modules about networks, and modules about numbers and dates."""
STEPS = 120


class TextClassifier(nn.Module):
    """ids: int64[batch, 24] with 0 as padding -> logits: fp32[batch, 2]; one layer of attention."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.head = nn.Linear(4 * width, 2)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        words = self.embedding(ids)
        hidden = (ids == 0).to(words.dtype)[:, None, :] * -1e4
        scores = self.query(words) @ self.key(words).transpose(1, 2) / words.shape[-1] ** 0.5 + hidden
        mixed = self.norm(words + torch.softmax(scores, dim=-1) @ self.value(words))
        there = (ids != 0).to(words.dtype)[:, :, None]
        pooled = (mixed * there).sum(1) / there.sum(1)
        return {"logits": self.head(torch.relu(self.hidden(pooled)))}


@cache
def docstrings() -> tuple[np.ndarray, np.ndarray]:
    """Word ids, shape (N, 24), and the family of each docstring, shape (N,), in a fixed shuffled order."""
    found: dict[str, int] = {}
    for label, names in enumerate(FAMILIES):
        for name in names:
            module = importlib.import_module(name)
            parts = [module, *(part for _, part in inspect.getmembers(module))]
            parts += [inner for part in parts[1:] if inspect.isclass(part) for _, inner in inspect.getmembers(part)]
            texts = [text for part in parts if isinstance(text := getattr(part, "__doc__", None), str)]
            found.update({text: label for text in texts if len(text) > 60})
    texts = sorted(found, key=lambda text: zlib.crc32(text.encode()))
    return np.stack([_ids(text) for text in texts]), np.array([found[text] for text in texts], np.int64)


def train_text_classifier(root: Path) -> ModelFolder:
    """Train and package it, a third of the docstrings held out as evaluation data."""
    torch.manual_seed(0)
    ids, labels = docstrings()
    held_out = len(ids) // 3
    net = TextClassifier()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    inputs, targets = torch.from_numpy(ids[held_out:]), torch.from_numpy(labels[held_out:])
    for _ in range(STEPS):
        rows = torch.randint(0, len(inputs), (64,))
        loss = nn.functional.cross_entropy(net(inputs[rows])["logits"], targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    options = PackagingOptions(evaluation=({"ids": ids[:held_out]}, labels[:held_out]), labels=["network", "number"])
    return runoff.package(net, {"ids": ids[:2]}, root, task="text-classification", options=options)


def _ids(text: str) -> np.ndarray:
    words = re.findall(r"[a-z]+", text.lower())[:LENGTH]
    ids = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words]
    return np.array(ids + [0] * (LENGTH - len(ids)), np.int64)
