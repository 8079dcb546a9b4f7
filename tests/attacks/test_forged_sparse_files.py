"""Sparse weights files that are whole, and say what cannot be: a state dict comes back exactly, or not at all."""

import copy

import pytest
import torch

from attacks import ABSENT, Canary, put
from spl import InputError
from spl.export import load_sparse, restored

PACKED = ("sparse", "fc2.weight")
ONES = torch.ones(50, dtype=torch.uint8)
FORGED = {
    "no names": (("names",), ABSENT),
    "names of a tuple": (("names",), tuple),
    "a name that is a number": (("names",), lambda names: [*names, 3]),
    "a name twice": (("names",), lambda names: [*names, names[0]]),
    "a name less": (("names",), lambda names: names[1:]),
    "a name more": (("names",), lambda names: [*names, "fc9.weight"]),
    "no dense tensors": (("dense",), ABSENT),
    "a dense tensor less": (("dense", "fc1.bias"), ABSENT),
    "a dense tensor more": (("dense", "fc9.bias"), torch.ones(1)),
    "a tensor dense and sparse": (("dense", "fc2.weight"), torch.ones(20, 20)),
    "a tensor dense and tied": (("tied",), {"fc1.bias": "fc2.bias"}),
    "a tie to nothing": (("tied",), {"fc1.weight": "fc9.weight"}),
    "a tie to itself": (("tied",), {"fc9.weight": "fc9.weight"}),
    "a tie to a list": (("tied",), {"fc9.weight": ["fc2.weight"]}),
    "ties of a list": (("tied",), ["fc2.weight"]),
    "another part": (("code",), "import os"),
    "a sparse tensor less": (PACKED, ABSENT),
    "a sparse tensor that is none": (PACKED, torch.ones(20, 20)),
    "no shape": ((*PACKED, "shape"), ABSENT),
    "a key more": ((*PACKED, "dtype"), "int8"),
    "a negative shape": ((*PACKED, "shape"), [-20, -20]),
    "a huge shape": ((*PACKED, "shape"), [10**9, 10**9]),
    "a shape beyond 64 bits": ((*PACKED, "shape"), [10**30]),
    "a shape of fractions": ((*PACKED, "shape"), [20.0, 20.0]),
    "a shape of booleans": ((*PACKED, "shape"), [True, 400]),
    "a shape of words": ((*PACKED, "shape"), "20, 20"),
    "another shape": ((*PACKED, "shape"), [20, 21]),
    "an empty shape": ((*PACKED, "shape"), [0, 20]),
    "surplus places": ((*PACKED, "places"), lambda places: torch.cat([places, places[:1]])),
    "too few places": ((*PACKED, "places"), lambda places: places[:-1]),
    "places of another type": ((*PACKED, "places"), lambda places: places.long()),
    "places of a list": ((*PACKED, "places"), lambda places: places.tolist()),
    "places of two axes": ((*PACKED, "places"), lambda places: places[None]),
    "places that stand for each other": ((*PACKED, "places"), ONES[:1].expand(50)),
    "surplus values": ((*PACKED, "values"), lambda values: torch.cat([values, values[:1]])),
    "too few values": ((*PACKED, "values"), lambda values: values[:-1]),
    "no values": ((*PACKED, "values"), None),
    "values of two axes": ((*PACKED, "values"), lambda values: values[:, None]),
    "values that stand for each other": ((*PACKED, "values"), lambda values: values[:1].expand(len(values))),
    "values without numbers": ((*PACKED, "values"), lambda values: values.to("meta")),
    "dense without numbers": (("dense", "fc1.bias"), lambda bias: bias.to("meta")),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value"), FORGED.values(), ids=FORGED)
def test_contents_that_cannot_be_are_refused(sparse, path, value):
    if path == ("tied",) and isinstance(value, dict) and "fc9.weight" in value:
        sparse["names"].append("fc9.weight")
    forged = put(sparse, path, value)
    with pytest.raises(InputError, match=r"(changed after it was written|is damaged).*export it again"):
        restored(forged)


def test_a_circle_of_ties_is_refused(sparse):
    sparse["names"] += ["a", "b"]
    sparse["tied"] = {"a": "b", "b": "a"}
    with pytest.raises(InputError, match="a is tied to 'b', which is no tensor of its own"):
        restored(sparse)


@pytest.mark.parametrize("bit", range(1, 4))
def test_surplus_bits_in_the_last_byte_are_refused(bit):
    packed = {"shape": [4], "places": torch.tensor([0b10100000 | 1 << bit], dtype=torch.uint8)}
    contents = {"format": "spl.sparse 1", "names": ["w"], "dense": {}, "tied": {}}
    for values in (2, 3):
        contents["sparse"] = {"w": packed | {"values": torch.ones(values)}}
        with pytest.raises(InputError, match="for the 4 weights of w: it is damaged"):
            restored(contents)


@pytest.mark.parametrize("kind", ["spl.sparse 2", None, ["spl.sparse 1"], 1])
def test_another_format_is_refused(sparse, kind):
    with pytest.raises(InputError, match=r"not a sparse weights file \(spl\.sparse 1\) but "):
        restored(put(sparse, ("format",), kind))


@pytest.mark.parametrize("contents", [None, 3, [], "spl.sparse 1", torch.ones(3)])
def test_contents_of_another_kind_are_refused(contents):
    torch.save(contents, "hostile.pt")
    with pytest.raises(InputError, match="not a sparse weights file"):
        load_sparse("hostile.pt")


def test_nothing_in_it_is_executed(sparse):
    torch.save(sparse | {"x": Canary()}, "hostile.pt")
    with pytest.raises(InputError, match=r"more than tensors and plain values \(posix\.mkdir\)"):
        load_sparse("hostile.pt")


def test_what_is_whole_comes_back(sparse, good):
    before = copy.deepcopy(sparse)
    state = restored(sparse)
    assert {f"network.{name}": t.tolist() for name, t in state.items()} == {
        name: t.tolist() for name, t in good["state_dict"].items()
    }
    assert sparse.keys() == before.keys()
