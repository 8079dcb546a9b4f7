"""Private attributes of Lightning and torch that are used are still there, and are what they were."""

import jsonargparse
import pytorch_lightning as pl
import torch
from jsonargparse import _typehints
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.cli import LightningCLI
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from spl.callbacks import lightning_private
from spl.functional import torch_private

QUIET = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing", "barebones"), False
)


class Line(pl.LightningModule):
    """One weight layer, and a note of what Lightning counted at each step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.steps = []

    def training_step(self, batch):
        self.steps.append(lightning_private.logged_step(self.trainer))
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader():
    return DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2)


def trainer(**options):
    return pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, **QUIET | options)


def gone(package, what, function):
    """What to say where an attribute is missing."""
    return (
        f"{package.__name__} {package.__version__} has no {what} any more: look for what has taken its place, and "
        f"change {function} alone."
    )


def test_the_cluster_environment_of_a_trainer():
    message = gone(pl, "Trainer._accelerator_connector.cluster_environment", "lightning_private.cluster_environment")
    assert hasattr(getattr(trainer(), "_accelerator_connector", None), "cluster_environment"), message
    assert isinstance(lightning_private.cluster_environment(trainer()), ClusterEnvironment), message


def test_whether_a_trainer_trains_copies():
    message = gone(pl, "strategies.launchers._MultiProcessingLauncher", "lightning_private.trains_in_copies")
    for strategy in ("ddp_spawn", "ddp_fork", "ddp_notebook"):
        assert lightning_private.trains_in_copies(trainer(strategy=strategy)), message
    for strategy in ("auto", "ddp"):
        assert not lightning_private.trains_in_copies(trainer(strategy=strategy)), message


def test_the_step_that_lightning_logs_under():
    fit, message = trainer(), gone(pl, "fit_loop.epoch_loop._batches_that_stepped", "lightning_private.logged_step")
    assert hasattr(fit.fit_loop.epoch_loop, "_batches_that_stepped"), message
    module = Line()
    fit.fit(module, loader())
    assert module.steps == [0, 1], message


def test_the_training_loader_before_training():
    fit, message = trainer(), gone(pl, "fit_loop._data_source.dataloader", "lightning_private.training_loader")
    assert callable(getattr(getattr(fit.fit_loop, "_data_source", None), "dataloader", None)), message
    seen = []

    class Look(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            seen.append(lightning_private.training_loader(trainer))

    fit = trainer(callbacks=[Look()])
    given = loader()
    fit.fit(Line(), given)
    assert seen == [given], message


def test_a_loader_that_is_shown_before_training():
    fit, message = trainer(), gone(pl, "fit_loop._combined_loader and max_batches", "lightning_private.showing")
    assert (fit.fit_loop._combined_loader, fit.fit_loop.max_batches) == (None, float("inf")), message
    given = loader()
    with lightning_private.showing(fit, given):
        assert fit.train_dataloader is given, message
        assert fit.num_training_batches == len(given), message
    assert (fit.train_dataloader, fit.num_training_batches) == (None, float("inf")), message
    with lightning_private.showing(fit, {"one": given, "two": given}):
        assert fit.train_dataloader == {"one": given, "two": given}


def test_the_network_that_a_callback_averages():
    message = gone(pl, "_average_model of callbacks that average weights", "lightning_private.averaged_network")
    for average in (WeightAveraging(), StochasticWeightAveraging(swa_lrs=0.1)):
        assert hasattr(average, "_average_model"), message
        assert lightning_private.averaged_network(average) is None
        average._average_model = network = nn.Linear(2, 1)
        assert lightning_private.averaged_network(average) is network
    assert lightning_private.averaged_network(pl.Callback()) is None


def test_the_methods_of_the_command_line_that_are_overridden():
    for name in ("_prepare_subcommand_parser", "_parse_ckpt_path", "_instantiate_trainer"):
        assert callable(getattr(LightningCLI, name, None)), gone(pl, f"LightningCLI.{name}", "spl.cli.fit.SplCLI")


def test_the_functions_of_jsonargparse_that_are_used_or_replaced():
    for name in ("get_all_subclass_paths", "resolve_class_path_by_name", "discard_init_args_on_class_path_change"):
        message = f"jsonargparse {jsonargparse.__version__} has no _typehints.{name} any more: look for what has taken "
        assert callable(getattr(_typehints, name, None)), (
            f"{message}its place, and change spl.cli.jsonargparse_private."
        )
    parser = jsonargparse.ArgumentParser()
    assert all(hasattr(parser, name) for name in ("_actions", "_option_string_actions", "_subcommands_action"))


def test_the_count_of_writes_to_a_tensor():
    message = gone(torch, "Tensor._version that counts writes in place", "torch_private.write_counts")
    weight = torch.ones(2)
    assert hasattr(weight, "_version"), message
    (before,) = torch_private.write_counts([weight])
    weight.add_(1)
    assert torch_private.write_counts([weight]) == [before + 1], message


def test_lazy_copies_of_tensors():
    message = gone(torch, "torch._lazy_clone", "torch_private.lazy_clone")
    weight = torch.ones(2)
    copy = torch_private.lazy_clone(weight)
    assert copy is not None, message
    assert torch_private.is_lazy(weight), gone(torch, "torch._C._is_cow_tensor", "torch_private.is_lazy")
    address = gone(torch, "torch._C._data_address", "torch_private.data_address")
    assert torch_private.data_address(weight) == torch_private.data_address(copy), address
    weight.data.zero_()
    assert copy.tolist() == [1.0, 1.0], message
    del copy
    torch_private.own(weight)
    assert not torch_private.is_lazy(weight), message
    assert torch_private.lazy_clone(torch.ones(2).share_memory_()) is None, message


def test_the_tables_of_a_module():
    layer = nn.Linear(2, 1, bias=False)
    message = gone(torch, "nn.Module._parameters", "torch_private.parameter_table")
    assert torch_private.parameter_table(layer) == {"weight": layer.weight, "bias": None}, message
    assert torch_private.parameter_table(layer) is torch_private.parameter_table(layer), message
    network, message = nn.Sequential(layer), gone(torch, "nn.Module._modules", "torch_private.submodule_table")
    assert torch_private.submodule_table(network) == {"0": layer}, message
    network[0] = other = nn.ReLU()
    assert torch_private.submodule_table(network)["0"] is other, message


def test_the_module_inside_a_compiled_one():
    network = nn.Linear(2, 1)
    message = gone(torch, "OptimizedModule._orig_mod", "torch_private.compiled_module")
    compiled = torch.compile(network, backend="eager")
    assert torch_private.compiled_module(compiled) is network, message
    assert torch_private.compiled_module(network) is None, message
    names = [name for name, _ in compiled.named_parameters()]
    assert names[0] == f"{torch_private.COMPILED_PREFIX}weight", message


def test_whether_a_module_is_compiled():
    network = nn.Linear(2, 1)
    message = gone(torch, "nn.Module._compiled_call_impl", "torch_private.is_compiled")
    assert hasattr(network, "_compiled_call_impl"), message
    assert not torch_private.is_compiled(network), message
    network.compile(backend="eager")
    assert torch_private.is_compiled(network), message


def test_the_leaves_of_nested_outputs():
    message = gone(torch, "torch.utils._pytree.tree_leaves", "torch_private.tree_leaves")
    assert torch_private.tree_leaves((1, {"a": [2, 3]}, 4)) == [1, 2, 3, 4], message


def test_the_base_classes_of_layers():
    subclasses = {
        "BatchNorm": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        "NormBase": (nn.BatchNorm2d, nn.InstanceNorm2d),
        "ConvNd": (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d),
        "ConvTransposeNd": (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        "DropoutNd": (nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
        "MaxPoolNd": (nn.MaxPool1d, nn.MaxPool2d),
        "AvgPoolNd": (nn.AvgPool1d, nn.AvgPool2d),
        "AdaptiveMaxPoolNd": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
        "AdaptiveAvgPoolNd": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    }
    for name, kinds in subclasses.items():
        for kind in kinds:
            assert issubclass(kind, getattr(torch_private, name)), gone(
                torch, f"_{name} above {kind.__name__}", f"torch_private.{name}"
            )


def test_the_names_of_submodules_in_the_code_of_torch_fx():
    message = gone(torch, "torch.fx.graph._format_target", "torch_private.path_in_code")
    network = torch.fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.Linear(2, 2))))
    assert f"{torch_private.path_in_code('0.0')}(" in network.code, message


def test_the_prefixes_of_wrapped_modules():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import _common_utils

    wrapped = [name for name, _ in nn.Sequential(checkpoint_wrapper(nn.Linear(2, 1))).named_modules()]
    prefixes = (_common_utils.FSDP_WRAPPED_MODULE + ".", wrapped[-1].removeprefix("0.") + ".")
    assert prefixes == torch_private.WRAPPER_PREFIXES, gone(
        torch, f"prefixes {torch_private.WRAPPER_PREFIXES} in names of parameters", "torch_private.WRAPPER_PREFIXES"
    )
