from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from sknet.model import Parts, Shape, SKConvolution, SKNet, build, decayed


def parts(split: bool = False) -> Parts:
    return Parts(np.random.default_rng(0), bn_momentum=0.9, split=split)


@pytest.mark.parametrize(
    ("net", "class_num", "parameters"),
    [
        ("sknet50", 10, 25_480_874),
        ("sknet50", 1000, 27_509_384),  # the paper's table says 27.5 M
        ("sknet26", 1000, 16_761_448),  # 16.8 M
        ("sknet101", 1000, 48_799_912),  # 48.9 M, where the attention has a batch norm
    ],
)
def test_the_net_has_as_many_trainable_parameters_as_the_recipe(net: str, class_num: int, parameters: int) -> None:
    assert sum(parameter.size for parameter in build(net, class_num).trainable_params()) == parameters


def test_pictures_of_any_size_become_one_logit_a_class() -> None:
    net = build("sknet_tiny", class_num=7)
    net.set_train(False)
    for side in (32, 40):
        assert net(ms.Tensor(np.zeros((2, 3, side, side), np.float32))).shape == (2, 7)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    first, again, other = (build("sknet_tiny", 10, seed=seed).head.weight.asnumpy() for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_initial_weights_follow_kaiming_fan_out_and_a_truncated_normal() -> None:
    net = build("sknet26", 1000)
    convolution = net.stages[6].kernels[0].branches[1][0].weight.asnumpy()  # 1024 channels in 32 groups, 3x3
    assert convolution.std() == pytest.approx(np.sqrt(2 / (32 * 9)), rel=0.02)
    head = net.head.weight.asnumpy()
    assert np.abs(head).max() <= 0.02
    assert head.std() == pytest.approx(0.0088, rel=0.02)  # 0.01, less what the cut takes away
    assert not net.head.bias.asnumpy().any()


def test_biases_and_batch_norm_do_not_decay() -> None:
    net = build("sknet_tiny", 10)
    weights, others = decayed(net)
    assert len(weights) + len(others) == len(net.trainable_params())
    assert all(name.rsplit(".", 1)[1] in ("gamma", "beta", "bias") for name in (other.name for other in others))
    assert all(weight.name.endswith("weight") for weight in weights)


def test_equal_scores_average_the_branches_and_a_large_one_selects_its_branch() -> None:
    unit = SKConvolution(parts(), channels=8, stride=1, groups=4)
    unit.set_train(False)
    x = ms.Tensor(np.random.default_rng(1).standard_normal((2, 8, 5, 5)).astype(np.float32))
    branches = [branch(x).asnumpy() for branch in unit.branches]
    for score in unit.select:
        score.weight.set_data(ms.Tensor(np.zeros(score.weight.shape, np.float32)))
    assert np.allclose(unit(x).asnumpy(), (branches[0] + branches[1]) / 2, atol=1e-6)
    unit.select[1].bias.set_data(ms.Tensor(np.full(8, 100, np.float32)))
    assert np.allclose(unit(x).asnumpy(), branches[1], atol=1e-6)


def test_layers_are_a_matter_of_configuration() -> None:
    net = SKNet(Shape((1, 2, 1), width=8, groups=4), 3, parts())
    assert len(net.stages) == 4
    assert net.head.in_channels == 128


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.usefixtures("graph_mode")
def test_a_grouped_convolution_is_the_same_split_into_its_groups(stride: int, dilation: int) -> None:
    native, split = (
        parts(split).convolution(12, 24, 3, stride=stride, dilation=dilation, groups=4) for split in (False, True)
    )
    x = ms.Tensor(np.random.default_rng(1).standard_normal((3, 12, 9, 8)).astype(np.float32))
    assert np.array_equal(native.weight.asnumpy(), split.weight.asnumpy())
    (out, (of_x, of_weight)), (split_out, (split_of_x, split_of_weight)) = (
        ms.value_and_grad(convolution, 0, convolution.trainable_params())(x) for convolution in (native, split)
    )
    assert out.shape == (3, 24, -(-9 // stride), -(-8 // stride))
    assert np.allclose(out.asnumpy(), split_out.asnumpy(), atol=1e-5)
    assert np.allclose(of_x.asnumpy(), split_of_x.asnumpy(), atol=1e-5)
    assert np.allclose(of_weight[0].asnumpy(), split_of_weight[0].asnumpy(), atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
@pytest.mark.usefixtures("graph_mode")
def test_a_pointwise_convolution_is_the_same_for_any_number_of_positions(side: int, stride: int) -> None:
    convolution = parts().convolution(6, 8, 1, stride=stride, has_bias=True)
    convolution.bias.set_data(ms.Tensor(np.arange(8, dtype=np.float32)))
    x = np.random.default_rng(1).standard_normal((3, 6, side, side)).astype(np.float32)
    wanted = np.einsum("bchw,oc->bohw", x[:, :, ::stride, ::stride], convolution.weight.asnumpy()[:, :, 0, 0])
    assert np.allclose(convolution(ms.Tensor(x)).asnumpy(), wanted + np.arange(8).reshape(8, 1, 1), atol=1e-5)
