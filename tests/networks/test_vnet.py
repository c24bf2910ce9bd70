"""V-Net: the published network, any plan's network, the preset, and training and prediction with it."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.errors import UserError
from nnunet_ssl.networks import VNet
from nnunet_ssl.plans import vnet as preset
from tests.helpers.synthetic import make_plans
from tests.helpers.trainers import needs
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of


def build(dimension=3, features=(4, 6, 8), channels=1, classes=2, **kwargs) -> VNet:
    torch.manual_seed(0)
    arguments = {
        "n_stages": len(features),
        "features_per_stage": list(features),
        "conv_op": nn.Conv3d if dimension == 3 else nn.Conv2d,
        "kernel_sizes": 3,
        "strides": [1] + [2] * (len(features) - 1),
        "n_conv_per_stage": [1, 2, 3, 3, 3][: len(features)],
        "n_conv_per_stage_decoder": [3, 3, 2, 1][1 - len(features) :],
        "nonlin": nn.ReLU,
        "nonlin_kwargs": {"inplace": True},
    }
    network = VNet(channels, num_classes=classes, **{**arguments, **kwargs})
    return network.apply(network.initialize)


def without_lower_heads(network: VNet) -> int:
    lower = sum(p.numel() for head in network.decoder.seg_layers[:-1] for p in head.parameters())
    return sum(p.numel() for p in network.parameters()) - lower


# ----------------------------------------------------------------------------------------------------------- the network


def test_the_network_of_ua_mt_has_its_published_size():
    features = (16, 32, 64, 128, 256)
    assert without_lower_heads(build(features=features)) == 9_443_266  # papers on LA report 9.44 million
    assert without_lower_heads(build(features=features, norm_op=nn.BatchNorm3d)) == 9_448_866


def test_the_network_of_the_paper_has_wide_stages_on_the_right():
    """Convolutions 5 x 5 x 5 of f features on the left and 2 f on the right, one parameter for each PReLU."""
    features = (4, 8, 16, 32, 64)
    paper = {"kernel_sizes": 5, "nonlin": nn.PReLU, "nonlin_kwargs": None, "residual": True, "concatenate": True}
    first, right = 125 * 4 + 4, ((1, 8), (2, 16), (3, 32), (3, 64))
    left = ((2, 8), (3, 16), (3, 32), (3, 64))
    convolutions = first + sum(n * (125 * f * f + f) for n, f in (*left, *right))
    down = sum(8 * f * 2 * f + 2 * f for f in features[:-1])
    up = sum(8 * below * f + f for below, f in ((64, 32), (64, 16), (32, 8), (16, 4)))
    nonlinearities, head = 12 + 4 + 9 + 4, 8 * 2 + 2
    expected = convolutions + down + up + nonlinearities + head
    assert without_lower_heads(build(features=features, **paper)) == expected


def by_hand(network: VNet, x: torch.Tensor) -> torch.Tensor:
    """UA-MT's forward, written with the weights of a network of three stages without normalization."""
    weights = {k: v for k, v in network.state_dict().items() if ".all_modules." not in k}
    conv, up = (F.conv3d, F.conv_transpose3d) if x.ndim == 5 else (F.conv2d, F.conv_transpose2d)

    def stage(x, prefix, count):
        for i in range(count):
            x = conv(x, weights[f"{prefix}.convs.{i}.conv.weight"], weights[f"{prefix}.convs.{i}.conv.bias"], padding=1)
            x = x.relu()
        return x

    def down(x, s):
        name = f"encoder.stages.{s}.0.conv"
        return conv(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2).relu()

    def upsample(x, s):
        name = f"decoder.transpconvs.{s}.0"
        return up(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2).relu()

    x1 = stage(x, "encoder.stages.0.0", 1)
    x2 = stage(down(x1, 1), "encoder.stages.1.1", 2)
    x3 = stage(down(x2, 2), "encoder.stages.2.1", 3)
    x4 = stage(upsample(x3, 0) + x2, "decoder.stages.0", 2)
    x5 = stage(upsample(x4, 1) + x1, "decoder.stages.1", 1)
    return conv(x5, weights["decoder.seg_layers.1.weight"], weights["decoder.seg_layers.1.bias"])


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_forward_is_the_official_one(dimension):
    network = build(dimension, channels=2, classes=3)
    x = torch.randn(2, 2, *[8] * dimension)
    with torch.no_grad():
        torch.testing.assert_close(network(x), by_hand(network, x))


def test_a_residual_stage_adds_its_input_before_the_nonlinearity():
    network = build(2, channels=2, residual=True)
    for name, parameter in network.named_parameters():
        if ".convs." in name:
            nn.init.zeros_(parameter)
    x = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        first = network.encoder.stages[0](x)
        torch.testing.assert_close(first, x.mean(1, keepdim=True).relu().expand(1, 4, 8, 8))
        down = network.encoder.stages[1][0](first)
        torch.testing.assert_close(network.encoder.stages[1](first), down)


@pytest.mark.parametrize("dimension, strides", [(2, [1, 2, [2, 1]]), (3, [1, [1, 2, 2], 2]), (3, [2, 2, 2])])
@pytest.mark.parametrize("residual, concatenate", [(False, False), (True, True), (True, False)])
def test_any_plan_gives_one_head_for_each_decoder_stage(dimension, strides, residual, concatenate):
    norm = nn.InstanceNorm3d if dimension == 3 else nn.InstanceNorm2d
    network = build(
        dimension,
        channels=2,
        classes=4,
        strides=strides,
        kernel_sizes=[[3] * dimension, [1] + [3] * (dimension - 1), 3],
        norm_op=norm,
        norm_op_kwargs={"affine": True},
        residual=residual,
        concatenate=concatenate,
    )
    x = torch.randn(2, 2, *[16] * dimension)
    shapes, size = [], [16] * dimension
    for stride in network.encoder.strides[:-1]:
        size = [n // s for n, s in zip(size, stride, strict=True)]
        shapes.append((2, 4, *size))
    network.decoder.deep_supervision = True
    heads = network(x)
    assert [tuple(h.shape) for h in heads] == shapes
    assert [tuple(f.shape) for f in network.encoder(x)][:-1] == [(2, f, *s[2:]) for f, s in zip((4, 6), shapes)]
    sum(h.square().mean() for h in heads).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    network.decoder.deep_supervision = False
    with torch.no_grad():
        assert torch.equal(network(x), heads[0])


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_feature_map_size_counts_what_every_convolution_gives(deep_supervision):
    network = build(strides=[1, [1, 2, 2], 2], deep_supervision=deep_supervision)
    sizes = []
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda _, __, output: sizes.append(output.numel()))
    network(torch.zeros(1, 1, 4, 8, 8))
    assert network.compute_conv_feature_map_size((4, 8, 8)) == sum(sizes)


def test_pickled_copied_and_compiled_networks_are_the_same():
    network = build(2, norm_op=nn.InstanceNorm2d, deep_supervision=True, residual=True, concatenate=True)
    x = torch.randn(1, 1, 8, 8)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for other in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network), compiled):
        assert all(torch.equal(a, b) for a, b in zip(network(x), other(x), strict=True))


def test_lists_of_another_length_are_refused():
    with pytest.raises(ValueError, match="n_conv_per_stage must have 3 entries, got 2"):
        build(n_conv_per_stage=[1, 2])


# ------------------------------------------------------------------------------------------------------------ the preset


def la_plans(file, transpose=(0, 1, 2)):
    plans = make_plans("Dataset101_LA")
    plans["transpose_forward"] = list(transpose)
    plans["configurations"]["3d_fullres"] |= {"spacing": [0.625] * 3, "patch_size": [96, 128, 192]}
    plans["configurations"]["2d"] |= {"spacing": [0.625] * 2, "patch_size": [160, 192], "batch_size": 30}
    plans["configurations"].pop("3d_lowres"), plans["configurations"].pop("3d_cascade_fullres")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plans))
    return file


def configuration_of(file, name):
    return PlansManager(json.loads(file.read_text())).get_configuration(name)


def network_of(configuration, deep_supervision=True):
    return get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        2,
        deep_supervision=deep_supervision,
    )


def test_the_preset_is_the_network_and_patch_of_the_left_atrium_studies(tmp_path):
    file = la_plans(tmp_path / "plans.json")
    assert preset.add_vnet_configuration(file, "3d_fullres") == "3d_fullres_vnet"
    configuration, base = configuration_of(file, "3d_fullres_vnet"), configuration_of(file, "3d_fullres")
    assert (configuration.patch_size, configuration.batch_size) == ([80, 112, 112], 2)
    assert (configuration.spacing, configuration.data_identifier) == (base.spacing, base.data_identifier)
    assert configuration.pool_op_kernel_sizes == [[1, 1, 1]] + [[2, 2, 2]] * 4
    network = network_of(configuration)
    assert isinstance(network, VNet) and not network.decoder.concatenate
    assert without_lower_heads(network) == 9_448_866  # instance norm has as many parameters as batch norm
    assert {type(m) for m in network.modules()} & {nn.ReLU, nn.LeakyReLU} == {nn.ReLU}


def test_the_preset_follows_transposed_axes_and_the_base_in_2d(tmp_path):
    file = la_plans(tmp_path / "plans.json", transpose=(1, 0, 2))
    preset.add_vnet_configuration(file, "3d_fullres")
    assert configuration_of(file, "3d_fullres_vnet").patch_size == [112, 80, 112]
    preset.add_vnet_configuration(file, "2d")
    flat = configuration_of(file, "2d_vnet")
    assert (flat.patch_size, flat.batch_size) == ([160, 192], 30)
    assert network_of(flat, deep_supervision=False)(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_a_small_patch_gets_fewer_stages_and_given_features_are_kept(tmp_path):
    file = la_plans(tmp_path / "plans.json")
    preset.add_vnet_configuration(file, "2d", [33, 32], 4)
    kwargs = configuration_of(file, "2d_vnet").network_arch_init_kwargs
    assert (kwargs["features_per_stage"], kwargs["n_conv_per_stage_decoder"]) == ([16, 32, 64, 128], [3, 2, 1])
    assert configuration_of(file, "2d_vnet").patch_size == [40, 32]
    preset.add_vnet_configuration(file, "2d", [32, 32], 4, [4, 8, 12], name="tiny")
    assert configuration_of(file, "tiny").network_arch_init_kwargs["features_per_stage"] == [4, 8, 12]


def test_what_cannot_be_planned_is_refused(tmp_path):
    file = la_plans(tmp_path / "plans.json")
    with pytest.raises(UserError, match=r"6 stages .*allowed are 3 to 4"):
        preset.add_vnet_configuration(file, "2d", [32, 32], 4, [4] * 6)
    preset.add_vnet_configuration(file, "2d")
    with pytest.raises(UserError, match="already has another configuration '2d_vnet'"):
        preset.add_vnet_configuration(file, "2d", batch_size=4)
    plans = json.loads(file.read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"].pop("conv_op")
    file.write_text(json.dumps(plans))
    with pytest.raises(UserError, match="names no convolution"):
        preset.add_vnet_configuration(file, "2d", name="other")


def test_the_command_line(tmp_path, monkeypatch, capsys):
    file = la_plans(tmp_path / "Dataset101_LA" / "nnUNetPlans.json")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    assert preset.main(["-d", "101", "-b", "3d_fullres"]) == 0
    assert "3d_fullres_vnet" in capsys.readouterr().out and configuration_of(file, "3d_fullres_vnet").batch_size == 2
    assert preset.main(["-d", "101", "-b", "missing"]) == 1
    assert "Allowed: 2d, 3d_fullres" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ in training


def with_vnet(plans: dict) -> None:
    """The synthetic data set's plans, its networks replaced by V-Nets of the same stages and strides."""
    for configuration in ("2d", "3d_fullres"):
        architecture = plans["configurations"][configuration]["architecture"]
        architecture["network_class_name"] = preset.NETWORK
        architecture["arch_kwargs"] |= {"n_conv_per_stage": [1, 2, 2], "n_conv_per_stage_decoder": [2, 1]}


ON_UNETS_ONLY = {"nnUNetTrainerMCF", "nnUNetTrainerSDCL"}  # make their second network from nnU-Net's own
MORE_SCALES = {"nnUNetTrainerURPC"}  # needs two scales with a labeled loss, and this small V-Net has one


@pytest.mark.parametrize(
    "name, configuration",
    [
        ("nnUNetTrainerMeanTeacher", "3d_fullres"),
        *((name, "2d") for name in sorted(set(trainer_classes()) - ON_UNETS_ONLY - MORE_SCALES)),
    ],
)
def test_a_step_trains_a_vnet_and_its_weights_fit_stock_nnunet(name, configuration, datasets, tmp_path):
    out, dataset = datasets(**needs(name, change_plans=with_vnet))
    trainer = started(make_trainer(name, out, dataset, configuration, results=tmp_path))
    assert isinstance(trainer.network, VNet)
    before = weights_of(trainer.network)
    trainer.iteration = 3 * trainer.num_epochs * trainer.num_iterations_per_epoch // 4
    for _ in range(2):
        values = trainer.train_step(copy_batch(next(trainer.dataloader_train)))
        assert all(np.isfinite(v) for v in values.values())
    assert largest_difference(before, weights_of(trainer.network)) > 0
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    stock = make_trainer("nnUNetTrainer", out, dataset, configuration, results=tmp_path / "stock")
    stock.initialize()
    stock.network.load_state_dict(torch.load(file, weights_only=False)["network_weights"], strict=True)
    expected = weights_of(trainer.inference_network().module)
    assert largest_difference(expected, weights_of(stock.network)) == 0


@pytest.mark.parametrize("name", sorted(ON_UNETS_ONLY))
def test_a_method_that_needs_a_unet_refuses_a_vnet_with_the_reason(name, datasets, tmp_path):
    trainer = make_trainer(name, *datasets(change_plans=with_vnet), results=tmp_path)
    with pytest.raises(NotImplementedError, match="VNet"):
        trainer.initialize()


def test_nnunet_predicts_with_a_trained_vnet(datasets, tmp_path):
    out, dataset = datasets(change_plans=with_vnet)
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", out, dataset, "2d", results=tmp_path))
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(
        str(tmp_path / dataset / "nnUNetTrainerMeanTeacher__nnUNetPlans__2d/fold_0/checkpoint_final.pth")
    )
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.initialize_from_trained_model_folder(
        str(tmp_path / dataset / "nnUNetTrainerMeanTeacher__nnUNetPlans__2d"), (0,), "checkpoint_final.pth"
    )
    image = torch.randn(1, 1, 24, 24)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    found = predictor.predict_sliding_window_return_logits(image)[:, 0]
    with torch.no_grad():
        expected = trainer.inference_network()(image)[0][0]
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)  # nnU-Net adds up in half precision
