"""Batches to score and to measure on: prepared as for evaluation, in a fixed order, alike in every process."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from spl.callbacks.lightning_private import training_loader
from spl.callbacks.scoring.process_batches import batches_of_process, seed_streams
from spl.callbacks.trainer import datamodule_of
from spl.classifier import SparseClassifier
from spl.criteria.criterion import Batch
from spl.criteria.objective import examples, first_tensor
from spl.criteria.processes import Processes
from spl.errors import InputError
from spl.lightning_api import CombinedLoader, LightningDataModule, LightningModule, Trainer, isolate_rng, sized_len


class EvaluationBatches:
    """The training examples of a fit in batches, on the Trainer's device and without augmentation.

    A DataModule may offer `scoring_dataloader(seed)`. If it does not, or if there is none, the training dataloader is
    read with the random stream seeded, and as in validation, so that transforms that ask `trainer.training` are off.
    The random stream of training and the loader's own generators are left as they were. What is drawn for a batch,
    here and by its reader, depends only on the seed and on the number of the batch.

    Args:
        trainer: the Trainer, which gives the device.
        datamodule: the data to read. Without one, these are the dataloaders given to fit, or the LightningModule's own.
        limit: the number of batches to read; None for all.
        seed: decides the order, and what is drawn for each batch.

    Attributes:
        batches: how many batches were read in the last pass.
        examples: how many examples they held.
        shape: the shape of the inputs of the batch that was read last.

    Raises:
        InputError: a batch holds no tensor.
    """

    def __init__(self, trainer: Trainer, datamodule: LightningDataModule | None, limit: int | None, seed: int) -> None:
        self.trainer = trainer
        self.datamodule = datamodule
        self.limit = limit
        self.seed = seed
        self.batches = 0
        self.examples = 0
        self.shape: tuple[int, ...] = ()
        self._size = 1

    def __iter__(self) -> Iterator[Any]:
        return self.of_process(0, 1)

    def of_process(self, rank: int, size: int) -> Iterator[Any]:
        """Yield the batches rank, rank + size, … of process `rank` of `size`; where possible, fetch only these.

        See `spl.callbacks.scoring.process_batches.batches_of_process`.
        """
        self.batches, self.examples, self._size = 0, 0, size
        with _streams_kept(), _as_in_validation(self.trainer):
            torch.manual_seed(self.seed)
            loader = self._loader()
            with _generators_kept(loader):
                for number, raw in batches_of_process(loader, rank, size, self.limit, self.seed):
                    seed_streams(self.seed, number)
                    batch = self._prepared(raw)
                    self.batches += 1
                    self.examples += examples(batch)
                    self.shape = tuple(first_tensor(batch).shape)
                    yield batch

    def __len__(self) -> int:
        total = len(self._loader())  # type: ignore[arg-type]
        return total if self.limit is None else min(total, self.limit)

    def counted(self, processes: Processes) -> tuple[int, int]:
        """Return how many batches and examples the last pass had, in all processes that shared it."""
        counts = torch.tensor([self.batches, self.examples], device=self.trainer.strategy.root_device)
        if self._size > 1:
            processes.add_up_([counts])
        batches, examples = counts.tolist()
        return batches, examples

    @property
    def end(self) -> bool:
        """Whether a pass is known to end, unlike one over an endless dataset without a limit."""
        return self.limit is not None or sized_len(self._loader()) is not None

    @property
    def source(self) -> str:
        """The name of what is read."""
        return "training dataloader" if self.datamodule is None else type(self.datamodule).__name__

    def first_inputs(self, number: int | None) -> Tensor:
        """Return the inputs of the first `number` examples, or of all: the first tensors of the batches."""
        return torch.cat([first_tensor(batch) for batch in self._until(number)])[:number]

    def _until(self, examples: int | None) -> list[Any]:
        batches = []
        for batch in self:
            batches.append(batch)
            if examples is not None and self.examples >= examples:
                break
        return batches

    def _loader(self) -> Iterable[object]:
        if self.datamodule is None:
            loader: Any = training_loader(self.trainer)
        else:
            scoring = getattr(self.datamodule, "scoring_dataloader", None)
            loader = scoring(self.seed) if scoring else self.datamodule.train_dataloader()
        if isinstance(loader, Mapping | list | tuple):
            loader = CombinedLoader(loader, "max_size_cycle")  # as fit reads several loaders
        if isinstance(loader, CombinedLoader):
            iter(loader)  # it has no length before
        found: Iterable[object] = loader
        return found

    def _prepared(self, raw: object) -> Any:
        if self.datamodule is None or self.datamodule is datamodule_of(self.trainer):
            batch = self.trainer.strategy.batch_to_device(raw)
        else:
            batch = self.datamodule.on_before_batch_transfer(raw, 0)
            batch = self.datamodule.transfer_batch_to_device(batch, self.trainer.strategy.root_device, 0)
            batch = self.datamodule.on_after_batch_transfer(batch, 0)
        return self.trainer.precision_plugin.convert_input(batch)


class LabelledBatches(EvaluationBatches):
    """The training examples of a classifier, in batches (inputs, labels).

    Raises:
        InputError: a batch is not such a pair.
    """

    def first(self, examples: int | None) -> Batch:
        """Return the inputs and labels of the first `examples` examples, or of all."""
        inputs, labels = (torch.cat(parts)[:examples] for parts in zip(*self._until(examples), strict=True))
        return inputs, labels

    def _prepared(self, raw: object) -> Batch:
        batch = super()._prepared(raw)
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            raise InputError(
                f"Scoring needs batches of (inputs, labels), got {type(batch).__name__} from {self.source}."
            )
        inputs, labels = batch
        return inputs, labels


def scoring_batches(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    limit: int | None,
    seed: int,
    required: bool,
) -> EvaluationBatches | None:
    """Return the batches to score a module on; for the other arguments see `EvaluationBatches`.

    Args:
        required: whether the criterion scores on them. If not, they only show what the loss depends on, and the result
            is None where there are none.

    Raises:
        InputError: there is no data, or it has no length and there is no limit.
    """
    if datamodule is not None and datamodule is not datamodule_of(trainer):
        if trainer.is_global_zero:
            datamodule.prepare_data()
        trainer.strategy.barrier("scoring data")
        datamodule.setup("fit")
    kind = LabelledBatches if isinstance(pl_module, SparseClassifier) else EvaluationBatches
    batches = kind(trainer, datamodule, limit, seed)
    try:
        if batches.end:
            return batches
    except Exception:
        if required:
            raise
    if required:
        raise InputError("The training data has no length: say how many batches to score on, PruneAtInit(batches=).")
    return None


@contextmanager
def _generators_kept(loader: Iterable[object]) -> Iterator[None]:
    """Give the generators of loaders and samplers their states back at the end."""
    loaders = loader.flattened if isinstance(loader, CombinedLoader) else [loader]
    holders = [*loaders, *(getattr(one, "sampler", None) for one in loaders)]
    found = [getattr(holder, "generator", None) for holder in holders]
    states = {generator: generator.get_state() for generator in found if isinstance(generator, torch.Generator)}
    try:
        yield
    finally:
        for generator, state in states.items():
            generator.set_state(state)


@contextmanager
def _streams_kept() -> Iterator[None]:
    """Isolate the random streams as `isolate_rng` does, also when the reader stops before the end."""
    isolation = isolate_rng()
    isolation.__enter__()
    try:
        yield
    finally:
        isolation.__exit__(None, None, None)


@contextmanager
def _as_in_validation(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage
