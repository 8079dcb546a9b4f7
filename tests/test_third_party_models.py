"""Models of timm, Hugging Face, PEFT and PyTorch Geometric: what is pruned is what is said, or they are refused."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from foreign import Plain, Trained
from torch import nn

from spl import InputError, prune, sparsify
from spl.criteria import ConnectionSensitivity, GraSP, IterativeSNIP, Magnitude
from spl.isometry import ApproximateIsometry

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of these packages
TOKENS = torch.arange(32).reshape(4, 8)
CAUSAL = [{"input_ids": TOKENS, "labels": TOKENS}]


def own_loss(network, batch):
    return network(**batch).loss


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "regnety_002"])
def test_networks_of_timm_are_covered_by_masks_of_the_right_size(name):
    import timm

    network = timm.create_model(name, num_classes=4)
    sparse = sparsify(network, ConnectionSensitivity(), 0.9, [(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))])
    assert sparse.coverage.covered > 0.99
    assert sparse.coverage.sparsity == pytest.approx(0.9, abs=0.01)
    assert not any(network.get_parameter(n)[~mask].any() for n, mask in sparse.masks.items())


@pytest.mark.parametrize("name", ["resnetv2_50x1_bit", "nf_resnet26"])
def test_networks_with_standardized_weights_are_refused_by_name(name):
    import timm

    network = timm.create_model(name, num_classes=4)
    with pytest.raises(InputError, match=r"^(head|stages|stem).*: the network multiplies by a weight that it computes"):
        prune(network, ConnectionSensitivity(), 0.9, [(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))])


def test_gpt2_is_pruned_with_its_tied_embedding():
    network = gpt2()
    sparse = sparsify(network, ConnectionSensitivity(), 0.9, CAUSAL, ApproximateIsometry(), loss=own_loss)
    assert sparse.coverage.dense == {"transformer.wpe.weight": "embedding"}
    assert len(sparse.masks) == len(sparse.changes) == 9
    assert network.lm_head.weight is network.transformer.wte.weight


@pytest.mark.parametrize(
    "criterion", [ConnectionSensitivity(), GraSP(temperature=1)], ids=lambda criterion: type(criterion).__name__
)
def test_gradient_checkpointing_changes_no_mask_and_is_refused_where_it_hides_the_graph(criterion):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=2, attn_implementation="eager", **sizes)
    network = BertForSequenceClassification(config).train()
    batches = [{"input_ids": TOKENS, "labels": torch.tensor([0, 1, 0, 1])}]
    masks = prune(network, criterion, 0.8, batches, loss=own_loss)
    network.gradient_checkpointing_enable({"use_reentrant": False})
    assert prune(network, criterion, 0.8, batches, loss=own_loss) == masks
    assert network.bert.encoder.layer[0].attention.self.dropout.p == 0.1
    network.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(InputError, match="reentrant gradient checkpointing"):
        prune(network, criterion, 0.8, batches, loss=own_loss)
    assert prune(network, Magnitude(), 0.8, batches, loss=own_loss).keys() == masks.keys()


def test_adapters_are_pruned_and_their_base_is_named_as_frozen():
    from peft import LoraConfig, get_peft_model

    network = get_peft_model(gpt2(), LoraConfig(target_modules=["c_attn"], r=4, fan_in_fan_out=True))
    sparse = sparsify(network, ConnectionSensitivity(), 0.5, CAUSAL, loss=own_loss)
    assert all("lora" in name for name in sparse.masks)
    assert sparse.coverage.sparsity < 0.05
    assert {*sparse.coverage.dense.values()} == {"frozen"}


def test_experts_in_one_parameter_are_named_and_can_be_included():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4, "num_hidden_layers": 1}
    network = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
    sparse = sparsify(copy.deepcopy(network), ConnectionSensitivity(), 0.5, CAUSAL, loss=own_loss)
    assert sparse.coverage.dense["model.layers.0.mlp.experts.gate_up_proj"] == "MixtralExperts"
    assert sparse.coverage.covered < 0.2
    sparse = sparsify(network, ConnectionSensitivity(), 0.5, CAUSAL, loss=own_loss, include=["*experts.*"])
    assert sparse.coverage.covered > 0.85
    assert (
        not network.model.layers[0].mlp.experts.down_proj[~sparse.masks["model.layers.0.mlp.experts.down_proj"]].any()
    )


def test_graph_networks_are_pruned_on_batches_of_graphs():
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader
    from torch_geometric.nn import GATConv, GCNConv, global_mean_pool

    class Graphs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = GCNConv(6, 16), GATConv(16, 8, heads=2), nn.Linear(16, 3)

        def forward(self, data):
            x = self.first(data.x, data.edge_index).relu()
            return self.head(global_mean_pool(self.second(x, data.edge_index).relu(), data.batch))

    class Module(Plain):
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch), batch.y)

    data = [Data(x=torch.randn(5, 6), edge_index=torch.randint(5, (2, 9)), y=torch.tensor([i % 3])) for i in range(12)]
    trained = Trained(
        lambda: Module(Graphs()), DataLoader(data, batch_size=4), sparsity=0.8, isometry=ApproximateIsometry(gain=1.0)
    )
    assert set(trained.masks) == {"network.first.lin.weight", "network.second.lin.weight", "network.head.weight"}
    assert trained.pruning.record["examples"] == 12
    assert trained.pruning.record["coverage"]["dense"] == dict.fromkeys(
        ["network.second.att_src", "network.second.att_dst"], "GATConv"
    )


def test_weights_of_quantization_aware_training_are_0_where_they_are_used():
    from torch.ao import quantization

    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    network.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its own end
        quantization.prepare_qat(network.train(), inplace=True)
        network(torch.randn(30, 6))
        masks = sparsify(network, IterativeSNIP(), 0.5, [(torch.randn(9, 6), torch.arange(9) % 3)]).masks
        used = network[0].weight_fake_quant(network[0].weight)
    assert not used[~masks["0.weight"]].any()
    assert used[masks["0.weight"]].any()
