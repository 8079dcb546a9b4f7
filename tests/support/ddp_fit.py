"""A script for test_ddp.py: a fit on `devices` CPU processes that records what each rank saw."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytorch_lightning as L
import torch
from fits import PLAIN, ZerosStay, pruning

from spl import SparseClassifier
from spl.data import MNISTSample
from spl.initializers import Orthogonal
from spl.isometry import ApproximateIsometry
from spl.networks import MLP


def digest(module: torch.nn.Module) -> str:
    return sha256(b"".join(p.detach().numpy().tobytes() for p in module.parameters())).hexdigest()


class Witness(L.Callback):
    def on_train_start(self, trainer, pl_module):
        self.start = digest(pl_module.network)
        self.examples = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.examples += [float(x.sum()) for x in batch[0]]


def main(folder: Path, devices: int, seed_ranks_alike: bool, fail_on: int) -> None:
    torch.set_num_threads(1)
    rank = int(__import__("os").environ.get("LOCAL_RANK", 0))
    if rank == fail_on:

        class Fails(ApproximateIsometry):
            def __call__(self, network, masks):
                raise RuntimeError("this rank broke")

        correction = Fails()
    else:
        correction = ApproximateIsometry(max_iterations=4)
    L.seed_everything(0 if seed_ranks_alike else rank)
    model = SparseClassifier(MLP(depth=3, width=20), initializer=Orthogonal())
    witness, check = Witness(), ZerosStay()
    options = PLAIN | {"devices": devices, "strategy": "ddp" if devices > 1 else "auto", "limit_train_batches": 1.0}
    trainer = L.Trainer(**options, callbacks=[pruning(isometry=correction), witness, check])
    trainer.fit(model, datamodule=MNISTSample())
    report = {
        "masks": model.masks.digest(),
        "start": witness.start,
        "end": digest(model.network),
        "steps": check.steps,
        "examples": witness.examples,
    }
    (folder / f"{trainer.world_size}-{trainer.global_rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "alike", int(sys.argv[4]))
