"""Attacks against their formulas, and results that can be left and gone on with."""

import json

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.nn import functional as F

from mmhcgnet.engine.models import build_model
from mmhcgnet.errors import UsageError

foolbox = pytest.importorskip("foolbox")
pytest.importorskip("mmpretrain.models")

from mmhcgnet.analysis import paper  # noqa: E402
from mmhcgnet.analysis.robustness import attacks  # noqa: E402
from mmhcgnet.analysis.robustness import evaluation as robustness  # noqa: E402
from mmhcgnet.analysis.robustness.attacks import (  # noqa: E402
    BestIterateAttack,
    Classifier,
    FastGradientAttack,
)

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
EPSILONS = (0.002, 0.01, 0.03)


@pytest.fixture(scope="module")
def model():
    """A tiny HCGNet classifier of which every part is random."""
    torch.manual_seed(0)
    cfg = dict(
        default_scope="mmpretrain",
        data_preprocessor=dict(mean=MEAN, std=STD, to_rgb=True),
        model=dict(
            type="ImageClassifier",
            backbone=dict(
                type="mmhcgnet.HCGNet",
                arch=dict(depths=(2, 1), growth_rates=(8, 8), stem="cifar"),
            ),
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=5, in_channels=24),
        ),
    )
    model = build_model(Config(cfg)).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.1 if "head" in name else 0.6)
    return model


@pytest.fixture(scope="module")
def images():
    """Noise that reaches both bounds, of height ≠ width."""
    return (
        torch.rand(24, 3, 12, 16, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    ).clamp(0, 1)


@pytest.fixture(scope="module")
def attacked(model, images):
    """With a bias that gives each class a share of the pictures."""
    classifier = Classifier(model)
    model.head.fc.bias -= classifier(images).mean(0)
    return foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")


@pytest.fixture(scope="module")
def labels(attacked, images):
    """What the model says, but for every sixth picture."""
    labels = attacked(images).argmax(1)
    labels[::6] = (labels[::6] + 1) % 5
    assert len(labels.unique()) > 1
    return labels


def losses(attacked, images, labels):
    with torch.no_grad():
        return F.cross_entropy(attacked(images), labels, reduction="none")


def test_fgsm_is_its_formula(model, attacked, images, labels):
    """x + ε sign(∂ loss / ∂ x), with the normalisation inside and the result in [0, 1]."""
    x = images.clone().requires_grad_()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    scores = model.head(model.neck(model.backbone(((x * 255).flip(1) - mean) / std)))
    (gradient,) = torch.autograd.grad(F.cross_entropy(scores, labels, reduction="sum"), x)
    sure = gradient.abs() > 1e-5 * gradient.abs().amax((1, 2, 3), keepdim=True)
    assert sure.float().mean() > 0.99
    for epsilon in EPSILONS:
        expected = (x.detach() + epsilon * gradient.sign()).clamp(0, 1)
        found = FastGradientAttack().run(attacked, images, labels, epsilon=epsilon)
        torch.testing.assert_close(found[sure], expected[sure], rtol=0, atol=1e-6)
        right = attacked(expected).argmax(1) == labels
        assert attacks.is_right(attacked, images, labels, "fgsm", epsilon).equal(right)


def test_pgd_is_never_weaker_than_fgsm(attacked, images, labels):
    counts = []
    for epsilon in EPSILONS:
        fgsm, pgd = (
            attacks.is_right(attacked, images, labels, attack, epsilon)
            for attack in ("fgsm", "pgd-10")
        )
        assert not (pgd & ~fgsm).any()
        counts.append((int(fgsm.sum()), int(pgd.sum())))
    assert any(pgd < fgsm for fgsm, pgd in counts), counts


def test_pgd_keeps_the_iterate_of_the_highest_loss_within_reach(attacked, images, labels):
    for epsilon in EPSILONS:
        fgsm = FastGradientAttack().run(attacked, images, labels, epsilon=epsilon)
        best = BestIterateAttack(10).run(attacked, images, labels, epsilon=epsilon)
        assert (best - images).abs().max() <= epsilon + 1e-6
        assert 0 <= best.min() and best.max() <= 1
        gain = losses(attacked, best, labels) - losses(attacked, fgsm, labels)
        right = attacked(best).argmax(1) == labels
        assert (gain[right] > -1e-5).all()
    # The first size leaves some pictures alone, else nothing was compared.
    best = BestIterateAttack(10).run(attacked, images, labels, epsilon=EPSILONS[0])
    assert (attacked(best).argmax(1) == labels).any()


class Trap(nn.Module):
    """Wrong only at the corner that FGSM jumps to; small steps end on a hill before it."""

    def forward(self, x):
        t = (x - 0.5).flatten(1).mean(1) / 0.1  # 1 at the corner
        hill = torch.minimum(t, 1 - t)
        return torch.stack([torch.ones_like(t), hill + 3 * (t > 0.999)], dim=1)


def test_what_fgsm_misleads_pgd_misleads_where_its_own_steps_would_not():
    trap = foolbox.PyTorchModel(Trap().eval(), bounds=(0, 1), device="cpu")
    images, labels = torch.full((2, 3, 4, 5), 0.5), torch.zeros(2, dtype=torch.long)
    plain = foolbox.attacks.LinfPGD(rel_stepsize=0.125, steps=20, random_start=False)
    assert not plain(trap, images, labels, epsilons=0.1)[2].any()
    assert not attacks.is_right(trap, images, labels, "fgsm", 0.1).any()
    assert not attacks.is_right(trap, images, labels, "pgd-20", 0.1).any()


def test_pictures_of_a_batch_do_not_meet(attacked, images, labels):
    together = BestIterateAttack(5).run(attacked, images, labels, epsilon=0.03)
    for i in range(0, 24, 5):
        alone = BestIterateAttack(5).run(
            attacked, images[i : i + 1], labels[i : i + 1], epsilon=0.03
        )
        # A gradient of almost 0 may have another sign.
        assert ((together[i] - alone[0]).abs() < 1e-6).float().mean() > 0.97


def test_the_attacked_model_is_in_eval_mode_without_gradients_of_its_own(model):
    model.train()
    assert not any(module.training for module in Classifier(model).modules())
    assert all(not parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("epsilon", [-0.1, 1.5, float("nan"), float("inf")])
def test_sizes_outside_of_pictures(epsilon):
    with pytest.raises(UsageError, match="between 0 and 1"):
        attacks.check_epsilons([0, epsilon])
    assert attacks.check_epsilons([1, 0.5, 0, 0.5]) == [0, 0.5, 1]


# --- results -------------------------------------------------------------------------------------


class Subject:
    """37 pictures of one class; the model is wrong on every tenth."""

    name, config, checkpoint = "net", "net.py", "net.pth"
    chosen = list(range(37))
    setup = dict(weights="a")
    batch_size = 5

    def __init__(self):
        self.classifier = nn.Identity()
        self.given = []

    def pictures(self, first):
        for start in range(first, 37, self.batch_size):
            numbers = torch.arange(start, min(start + self.batch_size, 37))
            self.given += numbers.tolist()
            yield numbers, torch.zeros(len(numbers), dtype=torch.long)


@pytest.fixture
def count(monkeypatch, tmp_path):
    """Measure cells of a subject into a file; ``crash_at`` raises at this picture."""

    def count(subject, cells, crash_at=None):
        def is_right(model, numbers, labels, attack, epsilon):
            if attack == "fgsm" and crash_at in numbers.tolist():
                raise KeyboardInterrupt
            return numbers % 10 != 0

        monkeypatch.setattr(robustness, "is_right", is_right)
        results = robustness.Results(str(tmp_path / "new/results.json"))
        results.begin(subject, cells, "cpu")
        robustness.measure(subject, results, cells, say=lambda line: None)
        return robustness.Results(results.path).counts["net"]

    return count


def test_an_interrupted_run_goes_on_and_counts_every_picture_once(count):
    cells = robustness.cells_of(["pgd-3", "fgsm"], [0, 0.1])
    assert cells == [("none", 0.0), ("pgd-3", 0.1), ("fgsm", 0.1)]
    first, second = Subject(), Subject()
    with pytest.raises(KeyboardInterrupt):
        count(first, cells, crash_at=23)
    # The cells before that which was interrupted have a batch more, and batches are now larger.
    second.batch_size = 7
    assert count(second, cells) == dict.fromkeys(cells, (37, 33))
    assert second.given == list(range(20, 37))
    third = Subject()
    more = [*cells, ("fgsm", 0.2)]
    assert count(third, more) == dict.fromkeys(more, (37, 33)) and third.given[0] == 0
    done = Subject()
    count(done, more)
    assert done.given == []


def test_an_interrupted_run_on_a_cpu_loses_less_than_a_batch(count):
    subject, cells = Subject(), [("fgsm", 0.1)]
    subject.batch_size = 37
    with pytest.raises(KeyboardInterrupt):
        count(subject, cells, crash_at=23)
    second = Subject()
    assert count(second, cells) == {cells[0]: (37, 33)} and second.given[0] == 20


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [10, 10, 5]), ("cuda", [25])])
def test_a_gpu_attacks_whole_batches(device, sizes):
    batch = (torch.rand(25, 3, 2, 2), torch.arange(25))
    parts = list(robustness._parts([batch], device))
    for i, whole in enumerate(batch):
        assert [len(part[i]) for part in parts] == sizes
        assert torch.equal(torch.cat([part[i] for part in parts]), whole)


def test_results_of_another_set_up_are_not_mixed(count, tmp_path):
    cells = [("fgsm", 0.1)]
    count(Subject(), cells)
    other = Subject()
    other.setup = dict(weights="b")
    with pytest.raises(UsageError, match="has results of net with other weights: name another"):
        count(other, cells)
    other.name = "another"
    before = json.loads((tmp_path / "new/results.json").read_text())["models"]["net"]
    count(other, cells)
    models = json.loads((tmp_path / "new/results.json").read_text())["models"]
    assert list(models) == ["net", "another"] and models["net"] == before
    assert before["cells"] == [dict(attack="fgsm", epsilon=0.1, images=37, right=33)]
    assert before["machine"]["versions"]["torch"] == torch.__version__


def test_runs_at_the_same_time_share_a_file(tmp_path):
    path, cells = str(tmp_path / "new/a.json"), [("fgsm", 0.1), ("fgsm", 0.2)]
    first, second = robustness.Results(path), robustness.Results(path)
    one, two = Subject(), Subject()
    two.name = "two"
    first.begin(one, cells[:1], "cpu")
    second.begin(two, cells, "cpu")
    first.counts["net"][cells[0]] = (20, 10)
    first.save()
    second.counts["two"][cells[0]] = (30, 11)
    second.save()
    first.counts["net"][cells[0]] = (25, 12)
    first.save()
    second.save()  # what it has read of "net" is older
    assert robustness.Results(path).counts == {
        "net": {cells[0]: (25, 12)},
        "two": {cells[0]: (30, 11), cells[1]: (0, 0)},
    }
    # The same name for something else is noticed as late as when it is saved.
    other = robustness.Results(str(tmp_path / "none.json"))
    two.setup = dict(weights="b")
    other.begin(two, cells, "cpu")
    other.path = path
    with pytest.raises(UsageError, match="has results of two with other weights"):
        other.save()


@pytest.mark.parametrize("text", ["{", "[]", '{"models": 3}', '{"models": {"net": {}}}'])
def test_a_file_of_something_else_is_left_alone(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="holds no results of this tool"):
        robustness.Results(str(path))
    assert path.read_text() == text


def test_the_papers_lines_begin_at_its_errors():
    assert all(len(entry.accuracies) == len(paper.EPSILONS) for entry in paper.ROBUSTNESS)
    errors = {entry.name: entry.top1 for entry in paper.IMAGENET}
    ours = {entry.name: entry.accuracies for entry in paper.ROBUSTNESS if entry.ours}
    assert {name: 100 - values[0] for name, values in ours.items()} == {
        "HCGNet-B": errors["HCGNet-B"]
    }


def test_the_figure_has_a_line_for_each_model_and_dots_the_papers(tmp_path):
    pytest.importorskip("matplotlib")
    results = robustness.Results(str(tmp_path / "a.json"))
    cells = robustness.cells_of(["fgsm", "pgd-3"], [0, 0.001])
    for name in ("a", "b"):
        results.counts[name] = {cell: (50, 30 - 2 * i) for i, cell in enumerate(cells)}
    args = (["a", "b"], results, ["fgsm", "pgd-3"], [0, 0.001], True)
    fgsm, pgd = robustness.figure(*args).axes
    lines = {line.get_label(): line for line in fgsm.lines}
    assert [line.get_label() for line in pgd.lines] == ["a", "b"]
    assert lines["a"].get_xydata().tolist() == [[0, 60], [0.001, 56]]
    assert pgd.lines[0].get_xydata().tolist() == [[0, 60], [0.001, 52]]
    papers = [label for label, line in lines.items() if line.get_linestyle() == ":"]
    assert len(papers) == 5 and all("(the paper's" in label for label in papers)
    header, body = robustness.rows(*args)
    assert header == ["model", "attack", "images", "ε = 0", "ε = 0.001"]
    assert body[1] == ["a", "PGD, 3 steps", "50", "60.00", "52.00"]
    assert ["HCGNet-B (paper)", "FGSM", "–", "78.5", "48.0"] in body
