"""Four configs of other methods, of the campaign that trains all of them, and its count."""

import pytest

from campaigns import methods

CONFIGS = {path.stem: path for path in methods.find_configs()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    methods.write_data(folder)
    return folder


@pytest.mark.slow(reason="trains and tests HCGNet-B with whole heads")
@pytest.mark.parametrize(
    "name",
    [
        "faster-rcnn_hcgnet-b_fpn_1x_coco",
        "dino-4scale_hcgnet-b_8xb2-12e_coco",
        "panoptic-fpn_hcgnet-b_fpn_1x_coco",
        "fpn_hcgnet-b_4xb4-160k_ade20k-512x512",
    ],
)
def test_a_method_trains_and_is_tested(name, warm, folder):
    if package := methods.missing_toolbox(CONFIGS[name]):
        pytest.skip(f"{package} is not installed")
    if name.startswith("panoptic"):
        pytest.importorskip("panopticapi")
    assert methods.try_config(warm, CONFIGS[name], folder) == ""


def test_a_run_that_ends_early_is_a_failure(warm, tmp_path):
    """As for this config, whose data do not exist."""
    problem = methods.try_config(warm, CONFIGS["retinanet_hcgnet-b_fpn_1x_coco"], tmp_path)
    assert problem.startswith("training ended with 2 after 0 iterations: ")
    assert "does not exist" in problem
