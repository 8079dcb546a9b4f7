"""Programs for test_both_lightnings.py; each is told which package of Lightning to import first."""

import os
import sys
from importlib import import_module

import pytest

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}


def boring(package):
    """Return a module of a package of Lightning."""
    parent = {"lightning": "lightning.pytorch"}.get(package, package)
    return import_module(f"{parent}.demos.boring_classes").BoringModel()


def fit(package, steps, checkpoint=None):
    """Prune and train a classifier, and load it again."""
    Trainer = import_module(package).Trainer
    from spl import PruneAtInit, SparseClassifier
    from spl.callbacks import LastCheckpoint
    from spl.data import MNISTSample
    from spl.networks import MLP

    callbacks = [PruneAtInit(sparsity=0.5, batches=1), LastCheckpoint()]
    trainer = Trainer(callbacks=callbacks, default_root_dir="run", max_steps=int(steps), **QUIET)
    trainer.fit(SparseClassifier(MLP(depth=2, width=10)), MNISTSample(), ckpt_path=checkpoint)
    loaded = SparseClassifier.load_from_checkpoint("run/checkpoints/last.ckpt", network=MLP(depth=2, width=10))
    print(type(trainer).__module__, trainer.global_step, loaded.masks.digest())


def fit_on_two_ranks(package):
    """Prune and train a module on two processes, and print on each what it works with."""
    Trainer = import_module(package).Trainer
    from spl import PruneAtInit, lightning_api

    pruning = PruneAtInit(sparsity=0.5)
    trainer = Trainer(callbacks=[pruning], devices=2, strategy="ddp", max_steps=2, enable_checkpointing=False, **QUIET)
    trainer.fit(boring(package))
    digests = trainer.strategy.broadcast(pruning.masks.digest()), pruning.masks.digest()
    path = f"rank{trainer.global_rank}.txt"
    with open(path, "w") as stream:
        stream.write(f"{lightning_api.package()} {digests[0] == digests[1]}")
    if trainer.is_global_zero:  # lines of two processes may mix
        print("done")


def mix(own, other):
    """Give a Trainer of one package what belongs to the other."""
    OwnTrainer = import_module(own).Trainer
    OtherTrainer = import_module(other).Trainer
    from spl import SparseClassifier, callbacks
    from spl.data import MNISTSample
    from spl.errors import InputError
    from spl.networks import MLP

    refused = (
        f"The {{}} is one of {other}, but spl works with {own}, .*: write `import {other}` above all other imports"
    )
    for name in callbacks.__all__:
        trainer = OtherTrainer(callbacks=[getattr(callbacks, name)()], **QUIET)
        with pytest.raises(InputError, match=refused.format("Trainer")):
            trainer.fit(boring(other))
    trainer = OtherTrainer(enable_checkpointing=False, **QUIET)
    with pytest.raises(InputError, match=refused.format("Trainer")):
        trainer.fit(boring(other), datamodule=MNISTSample())
    with pytest.raises(TypeError, match=refused.format("Trainer")):
        trainer.fit(SparseClassifier(MLP()), MNISTSample())
    loggers = import_module({"lightning": "lightning.pytorch"}.get(other, other) + ".loggers")
    options = {"callbacks": [callbacks.Summary()], "enable_checkpointing": False}
    trainer = OwnTrainer(**QUIET | options | {"logger": loggers.TensorBoardLogger(".")})
    with pytest.raises(InputError, match=refused.format("TensorBoardLogger")):
        trainer.fit(boring(own))
    print("refused")


def fit_by_the_other(own, other, *order):
    """Import both packages and spl and make a classifier in an order, and give it to the other package's Trainer."""
    for step in order:
        if step == "model":
            from spl.networks import MLP

            model = import_module("spl").SparseClassifier(MLP(depth=2, width=10))
        else:
            import_module({"own": own, "other": other}.get(step, step))
            if step == "spl":
                import_module("spl.classifier")
    trainer = import_module(other).Trainer(enable_checkpointing=False, **QUIET)
    compiled = import_module("torch").compile(model)
    message = f"^The Trainer is one of {other}, but spl works with {own}, .* write `import {other}` above all other "
    for run in (trainer.fit, trainer.validate, trainer.test, trainer.predict):
        for given in (model, compiled):
            with pytest.raises(TypeError, match=message):
                run(given)
    with pytest.raises(TypeError, match="single import style"):  # Lightning speaks of modules that are not of spl
        trainer.fit(boring(own))
    trainer.test(boring(other), verbose=False)
    print("refused")


def late():
    """Import spl first, and then Lightning."""
    from spl import SparseClassifier
    from spl.callbacks import FiniteLoss
    from spl.errors import InputError
    from spl.networks import MLP

    SparseClassifier(MLP())  # without a warning
    import lightning

    message = "spl works with pytorch_lightning, .* but lightning has been imported since.* write `import lightning`"
    with pytest.warns(UserWarning, match=message):
        SparseClassifier(MLP())
    with pytest.raises(InputError, match="write `import lightning` above all other imports"):
        lightning.Trainer(callbacks=[FiniteLoss()], **QUIET).fit(boring("lightning"))
    print("warned")


def command(package, *args):
    """Run the `spl` command in a program that has imported a package, or none, or where `lightning` is alone there."""
    if package == "lightning alone":
        sys.modules.update(pytorch_lightning=None, lightning_fabric=None)
    elif package != "none":
        import_module(package)
    sys.path.insert(0, os.getcwd())
    from spl.__main__ import main

    main(list(args))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
