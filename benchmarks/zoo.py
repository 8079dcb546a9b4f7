"""Export the networks of torchvision, timm and Hugging Face, and compare what is written with its source.

Each network is built without pretrained weights, gets random BatchNorm statistics as after training, and loses half of
the channels of every layer. Then it is made compact and written as a program, and with `--onnx` as an ONNX file. The
table has the parameters before and after, the largest difference of the compact network's outputs for new inputs,
relative to the largest output, and the seconds of compaction, of the program and of the ONNX file; or the refusal.
The column "varies" says how much the outputs depend on the inputs, on the same scale: agreement of outputs that do not
depend on them would prove little.

    python benchmarks/zoo.py                    # all networks, about 15 minutes on one core
    python benchmarks/zoo.py --only resnet vit  # those whose name contains one of these words
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from spl.criteria import Random
from spl.errors import InputError
from spl.export import compact, save_onnx, save_program
from spl.export.comparison import relative_difference
from spl.functional.torch_private import tree_leaves
from spl.pruning import prune
from spl.pruning.patterns import Channels, Unstructured
from spl.pruning.scopes import Uniform

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from trained import GatedBlocks, LastStep, OverwrittenInput, ResUNet, lively_

warnings.filterwarnings("ignore")
Made = tuple[nn.Module, Tensor]

TORCHVISION = {  # the size of the images, by name
    "alexnet": 64, "vgg11_bn": 32, "vgg16": 32, "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64,
    "wide_resnet50_2": 64, "densenet121": 64, "densenet169": 64, "inception_v3": 96, "googlenet": 64,
    "squeezenet1_0": 64, "squeezenet1_1": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mobilenet_v3_large": 64,
    "mnasnet0_5": 64, "mnasnet1_0": 64, "shufflenet_v2_x0_5": 64, "shufflenet_v2_x1_0": 64, "efficientnet_b0": 64,
    "efficientnet_b2": 64, "efficientnet_v2_s": 64, "regnet_x_400mf": 64, "regnet_y_400mf": 64, "regnet_y_800mf": 64,
    "convnext_tiny": 64, "vit_b_16": 64, "swin_t": 64, "swin_v2_t": 64, "maxvit_t": 224, "fcn_resnet50": 64,
    "deeplabv3_mobilenet_v3_large": 64, "lraspp_mobilenet_v3_large": 64,
}  # fmt: skip

TIMM = {
    "resnet18": 64, "mobilenetv3_small_050": 64, "convnext_atto": 64, "regnety_002": 64, "resnest14d": 64,
    "tf_efficientnetv2_b0": 64, "darknet17": 64, "cspresnet50": 64, "dla34": 64, "ghostnet_100": 64, "repvgg_a0": 64,
    "ese_vovnet19b_dw": 64, "hrnet_w18_small": 64, "densenet121": 64, "xception41": 64, "vit_tiny_patch16_224": 64,
    "mixer_s32_224": 224, "resnetv2_50": 64, "efficientnet_b0": 64, "inception_v4": 96,
}  # fmt: skip


def torchvision_network(name: str, size: int) -> Made:
    from torchvision.models import get_model

    options = {"vit_b_16": {"image_size": size}, "maxvit_t": {"input_size": (size, size)}}
    options |= {n: {"init_weights": False, "aux_logits": False} for n in ("inception_v3", "googlenet")}
    options |= {n: {"weights_backbone": None} for n in TORCHVISION if n.startswith(("fcn", "deeplab", "lraspp"))}
    return get_model(name, weights=None, **options.get(name, {})), torch.randn(2, 3, size, size)


def timm_network(name: str, size: int) -> Made:
    import timm

    options = {"img_size": size} if name.startswith("vit") else {}
    return timm.create_model(name, pretrained=False, **options), torch.randn(2, 3, size, size)


def bert() -> Made:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    return BertForSequenceClassification(config), torch.randint(99, (8, 12))


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=99, n_positions=32, n_embd=32, n_layer=2, n_head=2, use_cache=False)
    return GPT2LMHeadModel(config), torch.randint(99, (8, 12))


def hugging_face_vit() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return ViTForImageClassification(config), torch.randn(2, 3, 32, 32)


def tiny_outputs() -> Made:
    network = ResUNet()
    network.head = nn.Sequential(network.head, Scaled(1e-4))
    return network, torch.randn(2, 3, 32, 32)


class Scaled(nn.Module):
    """A module that multiplies by a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return self.factor * x


OTHERS: dict[str, Callable[[], Made]] = {
    "U-Net": lambda: (ResUNet(), torch.randn(2, 3, 32, 32)),
    "outputs of 1e-4": tiny_outputs,
    "LSTM": lambda: (LastStep(), torch.randn(2, 9, 8)),
    "in place": lambda: (OverwrittenInput(), torch.randn(2, 3, 16, 16)),
    "gated": lambda: (GatedBlocks(), torch.randn(2, 3, 16, 16)),
    "Hugging Face BERT": bert,
    "Hugging Face GPT-2": gpt2,
    "Hugging Face ViT": hugging_face_vit,
}


def zoo() -> dict[str, Callable[[], Made]]:
    """Return what makes each network and an example of its inputs, by name."""
    return {
        **{f"torchvision {n}": lambda n=n, s=s: torchvision_network(n, s) for n, s in TORCHVISION.items()},
        **{f"timm {n}": lambda n=n, s=s: timm_network(n, s) for n, s in TIMM.items()},
        **OTHERS,
    }


def seconds(work: Callable[[], object]) -> str:
    """Return the seconds that `work` takes, or the refusal."""
    start = time.perf_counter()
    try:
        work()
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"{type(error).__name__.upper()}: {error}"
    return f"{time.perf_counter() - start:.1f}"


def fresh(example: Tensor) -> Tensor:
    """Return other inputs like those of the example."""
    if example.is_floating_point():
        return torch.randn(3, *example.shape[1:])
    return example[torch.randperm(len(example))[:3]]


def report(name: str, make: Callable[[], Made], onnx: bool, folder: str) -> None:
    """Print the row of one network."""
    torch.manual_seed(0)
    network, example = make()
    pattern = Unstructured() if name.startswith("Hugging Face") else Channels()  # Conv1D has its outputs last
    masks = prune(network, Random(), sparsity=0.5, pattern=pattern, scope=Uniform())
    network.eval()
    masks.apply_(dict(network.named_parameters()))
    lively_(network, torch.cat([fresh(example), fresh(example)]))
    masks.apply_(dict(network.named_parameters()))
    with torch.no_grad():
        first, second = (tree_leaves(network(inputs))[0] for inputs in (fresh(example), fresh(example)))
    varies = relative_difference(first, second)
    before = sum(parameter.numel() for parameter in network.parameters())
    smaller, took, after, difference = network, "", before, float("nan")

    def make_compact() -> None:
        nonlocal smaller
        smaller = compact(network, masks, example).network

    took = seconds(make_compact)
    if smaller is not network:
        inputs = fresh(example)
        with torch.no_grad():
            difference = relative_difference(smaller(inputs), network(inputs))
        after = sum(parameter.numel() for parameter in smaller.parameters())
    written = seconds(lambda: save_program(f"{folder}/n.pt2", smaller, example))
    as_onnx = seconds(lambda: save_onnx(f"{folder}/n.onnx", smaller, example)) if onnx else ""
    print(
        f"{name:40} {before:>11,} {after:>11,} {difference:10.1e} {varies:8.1e}  {took} | {written} | {as_onnx}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", action="store_true", help="write ONNX files too")
    parser.add_argument("--only", nargs="*", default=[""], help="words of which a name must contain one")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'network':40} {'parameters':>11} {'compact':>11} {'difference':>10} {'varies':>8}  "
        "seconds: compact | program | onnx"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, make in zoo().items():
            if any(word in name for word in chosen.only):
                report(name, make, chosen.onnx, folder)


if __name__ == "__main__":
    main()
