"""Batches made in a background thread while the network works."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mambaseg.predict.previous import one_hot
from mambaseg.train import processes
from mambaseg.train.augment import seed_augmentation, spoil
from mambaseg.train.sample import UNLABELLED, PatchSampler

__all__ = ["Batch", "BatchLoader", "Encode", "fixed_batches", "to_batch"]

_SHARE_OF_CORES = 8  # a batch is about a tenth of the work of an iteration

Encode = Callable[[NDArray[Any]], NDArray[Any]]
"""What a network learns from instance labels, see `mambaseg.instances.INSTANCE_TARGETS`."""


@dataclass(frozen=True)
class Batch:
    """`image` float32 (batch, channel, *S); `target` (batch, 1, *S): int64 classes, float32 depths, or `UNLABELLED`."""

    image: Tensor
    target: Tensor


def to_batch(samples: list[tuple[NDArray[np.float32], NDArray[Any]]], encode: Encode | None,
             transform: Any = None, seeds: Sequence[int] = (), previous: Sequence[int] = ()) -> Batch:
    """Augment (where `transform` is given) and stack samples.

    Labels become what the network learns: through `encode`, or they are its classes where that is None. The
    augmentation of each sample begins with its own of `seeds`, where there are some. Of a cascade each label in
    `previous` that the stage before found becomes a channel of the image.
    """
    images, targets = [], []
    for index, (image, labels) in enumerate(samples):
        if seeds:
            seed_augmentation(seeds[index])
        layers = labels if previous else labels[None]
        sample = {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(layers.astype(np.int32))}
        if transform is not None:
            sample = transform(**sample)
        if previous:
            found = torch.from_numpy(one_hot(sample["segmentation"][1].numpy(), previous))
            sample["image"] = torch.cat([sample["image"], found if transform is None else spoil(found)])
        labels = sample["segmentation"][0].numpy()
        known = np.maximum(labels, 0)  # -1 (outside) is background
        target = known if encode is None else encode(known)
        target = target.astype(np.float32 if target.dtype.kind == "f" else np.int64)
        target[labels == UNLABELLED] = UNLABELLED
        images.append(sample["image"])
        targets.append(torch.from_numpy(target)[None])
    return Batch(torch.stack(images).float(), torch.stack(targets))


def fixed_batches(sampler: PatchSampler, n_batches: int, encode: Encode | None,
                  previous: Sequence[int] = ()) -> list[Batch]:
    """Batches without augmentation, always the same for the same seed: what validation looks at."""
    return [to_batch(sampler.batch(), encode, previous=previous) for _ in range(n_batches)]


class BatchLoader:
    """Iterates over augmented batches that one daemon thread makes ahead of time; of each, this process's share.

    One thread keeps the order of random draws, and so a seeded run, reproducible. Use as a context manager.

    Parameters
    ----------
    sampler : draws whole batches, in every process the same
    transform, encode, previous : see `to_batch`
    seed : of the augmentation
    n_ahead : batches that wait to be used
    is_shared : the network computes on the same cores, and would wait for a core that a batch is being made on: a batch
        is made on few cores then. On two it was a quarter less time an iteration (docs/learning.md)
    """

    def __init__(self, sampler: PatchSampler, transform: Any, encode: Encode | None, seed: int = 0,
                 n_ahead: int = 4, previous: Sequence[int] = (), *, is_shared: bool = False) -> None:
        self._sampler, self._transform, self._encode, self._previous = sampler, transform, encode, previous
        self._seeds = np.random.default_rng(seed)
        self._share = slice(processes.rank(), None, processes.count())
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(n_ahead)
        self._n_cores = max(1, torch.get_num_threads() // _SHARE_OF_CORES) if is_shared else None
        self._started, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._fill, name="mambaseg-batches", daemon=True)

    def __enter__(self) -> BatchLoader:
        n_cores = torch.get_num_threads()
        self._thread.start()
        self._started.wait()
        torch.set_num_threads(n_cores)  # torch lets threads that begin later have as many as was said last
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()  # make room for a thread that waits to put
            except queue.Empty:
                self._thread.join(0.05)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            item = self._queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    def _make(self) -> Batch:
        """The next batch."""
        samples = self._sampler.batch()
        seeds = self._seeds.integers(2**32, size=len(samples)).tolist()
        return to_batch(samples[self._share], self._encode, self._transform, seeds[self._share],
                        self._previous)

    def _fill(self) -> None:
        if self._n_cores is not None:
            torch.set_num_threads(self._n_cores)  # of this thread alone
            torch.get_num_threads()  # from now on; otherwise what is said last holds when it first computes
        self._started.set()
        while not self._stop.is_set():
            try:
                item: Batch | BaseException = self._make()
            except Exception as error:  # noqa: BLE001 - handed to the training thread, which raises it
                item = error
            self._queue.put(item)
            if isinstance(item, BaseException):
                return
