"""A script for test_ddp.py: the same fits with 1, 2 and 4 processes, each of which records what it saw."""

import json
import math
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import pytorch_lightning as L
import torch
import torch.distributed.checkpoint  # here, not in each process
import torch.nn.functional as F
from fits import PLAIN
from foreign import Plain, images
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from spl import JacobianSpectrum, PruneAtInit, SparseClassifier
from spl.criteria import FORCE, NTKSAP, PX, GraSP, Magnitude, ProsPr, Random, ShuffledInLayers, SynFlow
from spl.criteria.schedules import Exponential
from spl.data import MNISTSample
from spl.errors import InputError
from spl.initializers import Orthogonal
from spl.isometry import EOI, ApproximateIsometry
from spl.masks.masked_weights import MaskedWeights
from spl.masks.masks import Masks
from spl.masks.sharding import shard, shard_like
from spl.networks import MLP, ResNet


def whole(module: L.LightningModule) -> AbstractContextManager[None]:
    """Return a context in which FSDP gathers the whole weights of the module."""
    model = module.trainer.strategy.model
    if isinstance(model, FullyShardedDataParallel):
        return FullyShardedDataParallel.summon_full_params(model, writeback=False)
    return nullcontext()


def digest(module: L.LightningModule) -> str:
    """Return a digest of the whole weights of the module."""
    with whole(module):
        return digest_of(p.detach().clone() for p in module.parameters())


def digest_of(tensors: Iterable[Tensor]) -> str:
    whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in whole)).hexdigest()


class Noisy(Dataset):
    """Examples that are drawn again whenever they are fetched, and a record of who fetched them."""

    fetched: ClassVar[set[int]] = set()

    def __len__(self):
        return 50

    def __getitem__(self, index):
        self.fetched.add(index)
        return torch.randn(3, 4, 4) + index / 50, index % 4


class BrokenData(Noisy):
    """Data that cannot be fetched on the last process."""

    def __getitem__(self, index):
        if os.environ["LAST"] == "True":
            raise InputError("this data broke")
        return super().__getitem__(index)


class Endless(IterableDataset):
    """Endless examples, the same in every process."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(3, 4, 4, generator=generator), 1


class Denoiser(Plain):
    """A module whose loss draws random numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.Tanh(), nn.Linear(30, 4)))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.network(x + torch.randn_like(x)), y)


class Sharded(Plain):
    """A module that FSDP2 shards if there are several processes."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.Tanh(), nn.Linear(30, 2)))

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            for layer in (self.network[1], self.network[3], self.network):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])


class ShardedClassifier(SparseClassifier):
    """A `SparseClassifier` that is sharded in the same way."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.Tanh(), nn.Linear(30, 2)), num_classes=2)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            fully_shard(self.network, mesh=self.device_mesh["data_parallel"])


class FSDPOnCPU(FSDPStrategy):
    """FSDP on CPUs, which torch supports but Lightning's own strategy does not allow."""

    @property
    def root_device(self):
        return torch.device("cpu")

    def _setup_model(self, model):
        return FullyShardedDataParallel(
            model, sharding_strategy=self.sharding_strategy, device_id=self.root_device, **self.kwargs
        )


def fsdp(accelerator: str, size: int, folder: bool) -> Strategy:
    kind = "sharded" if folder else "full"
    return (FSDPOnCPU if accelerator == "cpu" else FSDPStrategy)(state_dict_type=kind, auto_wrap_policy={nn.Linear})


def fsdp2(accelerator: str, size: int, folder: bool) -> Strategy:
    return ModelParallelStrategy(size, 1, save_distributed_checkpoint=folder)


class BrokenLoss(Denoiser):
    """A module whose loss fails on the last process."""

    def training_step(self, batch, batch_idx):
        if os.environ["LAST"] == "True":
            raise ZeroDivisionError("this loss broke")
        return super().training_step(batch, batch_idx)


class NotFinite(Denoiser):
    """A module whose loss is NaN on the last process."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (math.nan if os.environ["LAST"] == "True" else 1)


class BrokenCorrection(ApproximateIsometry):
    def __call__(self, network, masks):
        if os.environ["LAST"] == "True":
            raise RuntimeError("this correction broke")
        return super().__call__(network, masks)


def mlp() -> SparseClassifier:
    return SparseClassifier(MLP(depth=3, width=20), initializer=Orthogonal())


def shuffled(size: int = 8) -> DataLoader:
    return DataLoader(Noisy(), batch_size=size, shuffle=True)


class Case(NamedTuple):
    """The module, the data and the settings of PruneAtInit of a fit."""

    module: Callable[[], L.LightningModule]
    data: Callable[[], Any]
    pruning: Mapping[str, Any] = MappingProxyType({})


def classifier() -> SparseClassifier:
    return SparseClassifier(MLP(depth=3, width=20), initializer=Orthogonal())


def convolutional() -> SparseClassifier:
    return SparseClassifier(ResNet(blocks_per_stage=1, width_multiplier=0.25, in_channels=1))


def mnist() -> MNISTSample:
    """Return data in 9 batches, a number that neither 2 nor 4 processes share evenly."""
    return MNISTSample(batch_size=450)


def few_digits() -> MNISTSample:
    return MNISTSample(batch_size=10)


def noisy() -> DataLoader:
    return DataLoader(Noisy(), batch_size=8, shuffle=True)


def in_workers() -> DataLoader:
    return DataLoader(Noisy(), batch_size=8, num_workers=min(int(os.environ["LOCAL_RANK"]), 1))


def broken() -> DataLoader:
    return DataLoader(BrokenData(), batch_size=8)


def cut() -> DataLoader:
    """Return a loader that its owner has already split among the processes."""
    distributed = torch.distributed.is_initialized()
    sampler = DistributedSampler(Noisy(), shuffle=False) if distributed else None
    return DataLoader(Noisy(), batch_size=8, sampler=sampler)


def endless() -> DataLoader:
    return DataLoader(Endless(), batch_size=8)


CASES = {
    "all the data": Case(classifier, mnist, {"isometry": ApproximateIsometry(max_iterations=4)}),
    "GraSP": Case(classifier, mnist, {"criterion": GraSP(), "batches": 5}),
    "rounds, fewer batches than processes": Case(
        classifier, mnist, {"criterion": FORCE(), "schedule": Exponential(3), "batches": 3}
    ),
    "one batch": Case(classifier, mnist, {"criterion": GraSP(), "batches": 1}),
    "statistics of batches": Case(convolutional, few_digits, {"batches": 3, "batch_norm": "batch"}),
    "the shape alone": Case(classifier, mnist, {"criterion": SynFlow(), "schedule": Exponential(3)}),
    "inputs of its own": Case(classifier, mnist, {"criterion": NTKSAP(), "schedule": Exponential(2)}),
    "the inputs alone": Case(classifier, mnist, {"criterion": PX(), "schedule": Exponential(2), "batches": 5}),
    "training steps, random loss": Case(Denoiser, noisy, {"criterion": ProsPr(momentum=0.9)}),
    "no data": Case(classifier, mnist, {"criterion": Random()}),
    "draws": Case(classifier, mnist, {"criterion": ShuffledInLayers(Magnitude()), "isometry": EOI()}),
    "random data, random loss": Case(Denoiser, noisy),
    "the same by workers": Case(Denoiser, in_workers),
    "endless": Case(Denoiser, endless, {"batches": 6}),
    "cut": Case(Denoiser, cut, {"batches": 6}),
    "the loss of the last fails": Case(BrokenLoss, noisy),
    "the loss of the last is not a number": Case(NotFinite, noisy),
    "the data of the last fails": Case(Denoiser, broken),
    "the correction of the last fails": Case(
        classifier, mnist, {"batches": 1, "isometry": BrokenCorrection(max_iterations=1)}
    ),
}


def fit(case: Case, accelerator: str, rank: int, size: int) -> dict[str, Any]:
    """Return the results of a fit of two steps, or why it failed."""
    L.seed_everything(rank, verbose=False)  # a different seed on every rank
    pruning = PruneAtInit(**({"isometry": None} | case.pruning))
    witness = Witness()
    devices = {"accelerator": accelerator, "devices": size, "strategy": "ddp" if size > 1 else "auto"}
    trainer = L.Trainer(**(PLAIN | devices | {"limit_train_batches": 2}), callbacks=[pruning, witness])
    Noisy.fetched = set()
    try:
        trainer.fit(case.module(), case.data())
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return {
        "masks": pruning.masks.digest(),
        "record": pruning.record,
        "start": witness.start,
        "end": digest(trainer.lightning_module),
        "fetched": witness.fetched,
    }


class Witness(L.Callback):
    """A callback that records the weights before the first step, and checks the zeros after each step."""

    def on_train_start(self, trainer, pl_module):
        self.start = digest(pl_module)
        self.fetched = sorted(Noisy.fetched)

    def on_train_batch_end(self, trainer, pl_module, *_):
        weights = MaskedWeights.of(pl_module)
        assert weights.masks.revived(weights.parameters) == {}


def sharded(
    module: Callable[[], L.LightningModule], path: Path, accelerator: str, size: int, strategy: Any = fsdp2
) -> dict[str, Any]:
    """Return the results of a fit with sharded weights, and of the same fit stopped half way and resumed."""
    whole = sharded_fit(module, accelerator, size, 2, strategy)
    sharded_fit(module, accelerator, size, 1, strategy, save=path)
    resumed = sharded_fit(module, accelerator, size, 2, strategy, resume=path)
    found = whole | {"resumed": {name: resumed[name] for name in ("masks", "record", "end", "momenta")}}
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, weights_only=True)
        zeros = [checkpoint["state_dict"][name][~mask] for name, mask in checkpoint["masks"].items()]
        found["saved masks"] = Masks(checkpoint["masks"]).digest()
        found["saved revived"] = sum(int(zero.count_nonzero()) for zero in zeros)
    return found


def sharded_fit(
    module: Callable[[], L.LightningModule],
    accelerator: str,
    size: int,
    epochs: int,
    made: Callable[[str, int, bool], Strategy] = fsdp2,
    save: Path | None = None,
    resume: Path | None = None,
    prunes: bool = True,
) -> dict[str, Any]:
    """Return the results of one fit with sharded weights."""
    L.seed_everything(0, verbose=False)  # the seed also determines the order of the data
    torch.manual_seed(7 if resume else 0)
    folder = (save or resume or Path("-.folder")).suffix == ".folder"
    strategy = made(accelerator, size, folder) if size > 1 else "auto"
    pruning, witness = PruneAtInit(isometry=ApproximateIsometry(max_iterations=20)), Witness()
    settings = {"accelerator": accelerator, "devices": size, "strategy": strategy, "max_epochs": epochs}
    callbacks = [pruning, witness, JacobianSpectrum(examples=6, every_n_epochs=None)] if prunes else []
    trainer = L.Trainer(**(PLAIN | settings | {"limit_train_batches": 1.0}), callbacks=callbacks)
    model = module()
    trainer.fit(model, DataLoader(images(24, 4, classes=2), batch_size=3), ckpt_path=resume)
    if save:
        trainer.save_checkpoint(save, weights_only=False)
        trainer.strategy.barrier()
    if not prunes:
        return {}
    state = trainer.optimizers[0].state
    return {
        "masks": pruning.masks.digest(),
        "record": pruning.record,
        "start": witness.start,
        "end": digest(model),
        "momenta": digest_of(state[p]["momentum_buffer"] for p in model.parameters() if p.numel()),
        "shards": [tuple(shard(p.detach()).shape) for p in model.parameters()],
    }


def validated(path: Path, accelerator: str, size: int) -> dict[str, Any]:
    """Validate a checkpoint under FSDP; return its masks and the number of nonzero weights."""
    settings = {"accelerator": accelerator, "devices": size, "strategy": fsdp(accelerator, size, folder=True)}
    trainer, model = L.Trainer(**(PLAIN | settings)), ShardedClassifier()
    trainer.validate(model, DataLoader(images(6, 4, classes=2), batch_size=3), ckpt_path=path, verbose=False)
    with whole(model):
        weights = MaskedWeights.of(model).parameters
        return {"masks": model.masks.digest(), "alive": sum(int(weights[n].count_nonzero()) for n in model.masks)}


def dense_resumed(path: Path, accelerator: str) -> str:
    """Return the error for a checkpoint without masks."""
    sharded_fit(Sharded, accelerator, 2, 1, save=path, prunes=False)
    try:
        sharded_fit(Sharded, accelerator, 2, 2, resume=path)
    except InputError as error:
        return str(error)
    return ""


def cut_otherwise(accelerator: str) -> str:
    """Return the error for a tensor whose parts have to be added."""
    mesh = init_device_mesh("cuda" if accelerator == "gpu" else accelerator, (2,))
    try:
        shard_like(torch.ones(2, dtype=torch.bool), DTensor.from_local(torch.ones(2), mesh, [Partial()]))
    except InputError as error:
        return str(error)
    return ""


def work(rank: int, size: int, folder: Path, accelerator: str) -> None:
    """Run all fits as one of several processes."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "LAST": str(rank == size - 1)}
    reports = {name: fit(case, accelerator, rank, size) for name, case in CASES.items()}
    reports["sharded"] = sharded(Sharded, folder / f"{size}.ckpt", accelerator, size)
    reports["sharded classifier"] = sharded(ShardedClassifier, folder / f"{size}.folder", accelerator, size)
    if size > 1:
        path = folder / f"{size}-flat.folder"
        reports["flattened"] = sharded(Sharded, folder / f"{size}-flat.ckpt", accelerator, size, fsdp)
        reports["flattened classifier"] = sharded(ShardedClassifier, path, accelerator, size, fsdp)
        reports["flattened and validated"] = validated(path, accelerator, size)
    if size == 2:
        reports["sharded dense"] = dense_resumed(folder / "dense.ckpt", accelerator)
        reports["sharded otherwise"] = cut_otherwise(accelerator)
    (folder / f"{size}-{rank}.json").write_text(json.dumps(reports))


def main(folder: Path, accelerator: str, sizes: list[int]) -> None:
    for size in sizes:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        # forked, so that no process repeats the imports
        torch.multiprocessing.start_processes(work, (size, folder, accelerator), nprocs=size, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(size) for size in sys.argv[3:]])
