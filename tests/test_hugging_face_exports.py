"""Networks of Hugging Face, which cannot be made compact, are written as programs and as ONNX files."""

import pytest
import torch
from onnx_files import infer_all

from spl.criteria import Random
from spl.errors import InputError
from spl.export import compact, save_onnx, save_program
from spl.export.comparison import relative_difference
from spl.pruning import prune

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of that package

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = torch.randint(50, (8, 12), generator=torch.Generator().manual_seed(0))


def bert():
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=16, **SIZES)
    return transformers.BertForSequenceClassification(config), TOKENS


def vit():
    config = transformers.ViTConfig(image_size=16, patch_size=8, **SIZES)
    return transformers.ViTForImageClassification(config), torch.randn(2, 3, 16, 16)


def gpt2():
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, **ends)
    network = transformers.GPT2LMHeadModel(config)
    network.config.use_cache = False
    return network, TOKENS


def pruned(network):
    prune(network, Random(), sparsity=0.5).apply_(dict(network.named_parameters()))
    return network.eval()


@pytest.mark.parametrize("make", [bert, vit, gpt2])
def test_programs_compute_what_the_network_does_and_need_no_other_package(make, tmp_path):
    network, example = make()
    save_program(tmp_path / "n.pt2", pruned(network), example)
    program = torch.export.load(tmp_path / "n.pt2")
    assert program.call_spec.out_spec.type is dict
    inputs = example[torch.tensor([1, 0, 1])]
    with torch.no_grad():
        assert relative_difference(program.module()(inputs), {"logits": network(inputs).logits}) < 1e-4
    assert set(dict(network.named_parameters())) <= set(program.state_dict)


def test_an_onnx_file_computes_what_the_network_does(tmp_path):
    network, example = bert()
    save_onnx(tmp_path / "n.onnx", pruned(network), example)
    inputs = example[:5]
    with torch.no_grad():
        assert relative_difference(infer_all(tmp_path / "n.onnx", inputs), [network(inputs).logits]) < 1e-4
    assert type(network(inputs)).__name__ == "SequenceClassifierOutput"


def test_compaction_says_how_to_export_them():
    network, example = bert()
    masks = prune(network, Random(), sparsity=0.5)
    with pytest.raises(InputError) as refused:
        compact(network, masks, example)
    said = str(refused.value)
    assert "torch.fx cannot trace BertForSequenceClassification: its forward takes a second argument, **kwargs" in said
    assert "Export it as it is, without a trace: --to dense, or spl.export.save_program or save_onnx" in said


@pytest.mark.parametrize("save", [save_program, save_onnx])
def test_outputs_that_are_no_tensors_are_refused_by_name(save, tmp_path):
    network, example = gpt2()
    network.config.use_cache = True
    with pytest.raises(InputError, match=r"hold a transformers\.\S+DynamicCache, which is no tensor\. .*use_cache = F"):
        save(tmp_path / "n", network, example)
    assert not list(tmp_path.iterdir())
