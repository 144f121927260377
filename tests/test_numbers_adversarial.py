"""Both players of each GAN and the contrastive forms against formulas."""

import copy

import pytest
import torch
from torch.nn.functional import logsigmoid

from loss.adversarial import Adversarial
from loss.contrastive import contrastive, info_nce, shuffled
from loss.discriminator import Discriminator
from loss_formulas import (
    cosine,
    flags,
    images_of_a_step,
    naive_contrastive,
    random_images,
    upsampled,
)
from option import parse_args


def bce(logits, is_real):
    return -(logsigmoid(logits) if is_real else logsigmoid(-logits)).mean()


def dual(real, fake):
    """Return the dual contrastive loss, one logit after the other."""
    exp_real, exp_fake = real.double().exp(), fake.double().exp()
    first = [-(r / (r + exp_fake.sum())).log() for r in exp_real]
    second = [-(1 / f / (1 / f + (1 / exp_real).sum())).log() for f in exp_fake]
    return (sum(first) / len(first) + sum(second) / len(second)).float()


# what each player minimizes, given the logits of real images r and of fake ones f
PLAYERS = {
    "GAN": (lambda r, f: bce(r, True) + bce(f, False), lambda r, f: bce(f, True)),
    "LSGAN": (
        lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda r, f: 0.5 * ((f - 1) ** 2).mean(),
    ),
    "WGAN": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "WGAN_GP": (lambda r, f: f.mean() - r.mean(), lambda r, f: -f.mean()),
    "RGAN": (
        lambda r, f: bce(r - f.mean(), True) + bce(f - r.mean(), False),
        lambda r, f: bce(f - r.mean(), True) + bce(r - f.mean(), False),
    ),
    "ContrasD": (dual, lambda r, f: dual(f, r)),
    "patchD": (dual, lambda r, f: dual(f, r)),
}


def embedding_of(term):
    return next(module for module in term.modules() if isinstance(module, Discriminator))


def descend(before, loss, lr, clip=None):
    """Return the parameters of `before` after one step of plain gradient descent on the loss."""
    parameters = list(before.parameters())
    steps = [lr * gradient for gradient in torch.autograd.grad(loss, parameters)]
    after = [old.detach() - step for old, step in zip(parameters, steps, strict=True)]
    return after if clip is None else [value.clamp(-clip, clip) for value in after]


def check_parameters(dis, start, wanted):
    """Check that dis went from `start` to `wanted`, to 2 % of the way."""
    pairs = zip(start.parameters(), wanted, strict=True)
    total = sum(float((w - s).detach().square().sum()) for s, w in pairs) ** 0.5
    assert total > 1e-4
    triples = zip(start.named_parameters(), dis.parameters(), wanted, strict=True)
    for (key, old), new, want in triples:
        way, error = ((x - want).detach().norm() for x in (old, new))
        assert error <= 0.02 * way + 2e-3 * total, key


def set_up(name, more="", seed=0):
    torch.manual_seed(seed)
    args = flags(f"--loss {name} --optimizer SGD --momentum 0 --lr 0.02 {more}")
    term = Adversarial(args, name)
    return term, embedding_of(term)


@pytest.mark.parametrize("kind", PLAYERS)
def test_both_players_of_each_gan_minimize_their_formula(kind):
    term, dis = set_up(kind)
    before = copy.deepcopy(dis)
    sr, hr, lr = images_of_a_step()
    sr.requires_grad_()
    torch.manual_seed(7)
    value = term(sr=sr, hr=hr, positives=[hr], negatives=[upsampled(lr)])
    value.backward()

    embedding_loss, generator_loss = PLAYERS[kind]
    loss = embedding_loss(before(hr).flatten(), before(sr.detach()).flatten())
    if kind == "WGAN_GP":
        torch.manual_seed(7)
        mix = torch.rand(2, 1, 1, 1)
        between = (mix * hr + (1 - mix) * sr.detach()).requires_grad_()
        (slope,) = torch.autograd.grad(before(between).sum(), between, create_graph=True)
        loss = loss + 10 * ((slope.flatten(1).square().sum(1).sqrt() - 1) ** 2).mean()
        # its own optimizer: Adam with betas (0, 0.9) and lr 1e-5, as in the release
        (group,) = term.optimizer.param_groups
        assert isinstance(term.optimizer, torch.optim.Adam)
        assert (group["lr"], group["betas"]) == (1e-5, (0, 0.9))
        gradients = torch.autograd.grad(loss, list(before.parameters()))
        for parameter, want in zip(dis.parameters(), gradients, strict=True):
            assert torch.allclose(parameter.grad, want, atol=1e-3 * float(want.abs().max()) + 1e-6)
    else:
        clip = 1.0 if kind == "WGAN" else None
        check_parameters(dis, before, descend(before, loss, 0.02, clip=clip))

    again = sr.detach().clone().requires_grad_()
    want = generator_loss(dis(hr).detach().flatten(), dis(again).flatten())
    assert float(value.detach()) == pytest.approx(float(want.detach()), rel=1e-4, abs=1e-5)
    (gradient,) = torch.autograd.grad(want, again)
    assert torch.allclose(sr.grad, gradient, atol=1e-3 * float(gradient.abs().max()) + 1e-12)


def test_positives_and_negatives_train_the_embedding_with_contras_d_train():
    term, dis = set_up("CL-patchD", "--no_ad_loss --contras_D_train")
    before = copy.deepcopy(dis)
    sr, hr, _ = images_of_a_step()
    sharper, blurred = random_images(11), random_images(12)
    term(sr=sr, hr=hr, positives=[hr, sharper], negatives=[random_images(13), blurred])
    real = torch.cat([before(x).flatten() for x in (hr, sharper)])
    fake = torch.cat([before(x).flatten() for x in (sr, blurred)])
    check_parameters(dis, before, descend(before, dual(real, fake), 0.02))


def test_the_embedding_takes_gan_k_steps():
    term, dis = set_up("GAN", "--gan_k 2")
    start, moving = copy.deepcopy(dis), copy.deepcopy(dis)
    sr, hr, lr = images_of_a_step()
    term(sr=sr, hr=hr, positives=[hr], negatives=[upsampled(lr)])
    losses = []
    for _ in range(2):
        loss = bce(moving(hr), True) + bce(moving(sr), False)
        losses.append(float(loss.detach()))
        wanted = descend(moving, loss, 0.02)
        with torch.no_grad():
            for parameter, value in zip(moving.parameters(), wanted, strict=True):
                parameter.copy_(value)
    check_parameters(dis, start, wanted)
    assert float(term.log_values()["embedding"]) == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert abs(losses[0] - losses[1]) > 0.001


# --------------------------------------------------------- contrastive loss


def features_of(dis, image, layers):
    features = dis(image, return_features=True)[1]
    return [features[i] for i in layers]


@pytest.mark.parametrize(
    ("kind", "more", "layers", "weights"),
    [
        ("InfoNCE", "--layer_weight", (0, 2, 5), (1, 1, 1)),
        ("cosine", "--layer_weight", (1, 3, 4), (1, 1 / 2, 1 / 4)),
        ("InfoNCE", "--cl_temperature 0.1", (4,), (1,)),
        ("LMCL", "--cl_temperature 0.5", (0, 4), (1, 1)),
        ("InfoNCE", "", (4,), (1,)),
        ("InfoNCE", "", (0, 2, 5), (1, 1, 1)),
        ("LMCL", "", (0, 2, 5), (1, 1, 1)),
        ("cosine", "", (1, 3), (1, 1)),
        ("cosine", "--layer_weight", (0, 1, 2), (1, 1 / 2, 1 / 4)),
        ("l1", "", (1, 3), (1, 1)),
        ("l1", "--layer_weight", (0, 1, 2), (1, 1 / 2, 1 / 4)),
        ("l2", "", (4,), (1,)),
        ("l2", "--layer_weight", (0, 1), (1, 1 / 2)),
    ],
)
def test_each_contrastive_form_is_its_formula(kind, more, layers, weights):
    more += f" --cl_loss_type {kind} --cl_layer {','.join(map(str, layers))}"
    term, dis = set_up("CL-patchD", f"--no_ad_loss --before_relu {more}")
    sr, hr, lr = images_of_a_step()
    positives = [hr, random_images(11)]
    negatives = [upsampled(lr), random_images(12), random_images(13)]
    sr.requires_grad_()
    value = term(sr=sr, hr=hr, positives=positives, negatives=negatives)
    value.backward()
    again = sr.detach().clone().requires_grad_()
    near, far = (
        [features_of(dis, x, layers) for x in samples] for samples in (positives, negatives)
    )
    temperature = float(more.split("--cl_temperature ")[1].split()[0]) if "temp" in more else 1
    want = naive_contrastive(kind, features_of(dis, again, layers), near, far, weights, temperature)
    assert float(value.detach()) == pytest.approx(float(want.detach()), rel=2e-4)
    (gradient,) = torch.autograd.grad(want, again)
    assert float(gradient.abs().max()) > 0
    assert torch.allclose(sr.grad, gradient, atol=2e-3 * float(gradient.abs().max()))


def test_the_adversarial_term_is_added_unless_a_flag_leaves_it_out():
    sr, hr, lr = images_of_a_step()
    samples = {"positives": [hr], "negatives": [upsampled(lr)]}
    values = []
    for name, more in (("CL-GAN", ""), ("CL-GAN", "--no_ad_loss"), ("GAN", "")):
        term, _ = set_up(name, f"{more} --cl_loss_type InfoNCE --cl_layer 4")
        values.append(float(term(sr=sr, hr=hr, **samples)))
    assert min(values[1:]) > 0.1
    assert values[0] == pytest.approx(values[1] + values[2], rel=1e-4)


def test_shuffled_negatives_are_other_images_of_the_batch():
    term, dis = set_up(
        "CL-patchD", "--no_ad_loss --shuffle_neg --cl_layer 4 --cl_loss_type InfoNCE"
    )
    sr, hr, _ = images_of_a_step()
    value = term(sr=sr, hr=hr, positives=[hr], negatives=[hr])
    with torch.no_grad():
        (anchor,), (near,) = features_of(dis, sr, (4,)), features_of(dis, hr, (4,))
        # two images: the other one
        s, t = cosine(anchor, near).exp(), cosine(anchor, near.flip(0)).exp()
        want = -(s / (s + s + t)).log().mean()
    assert float(value) == pytest.approx(float(want), rel=1e-4)


def test_shuffled_features_are_never_those_of_the_image_itself():
    features = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 3, 3)
    torch.manual_seed(0)
    others = shuffled([[features, 10 * features]], 40)
    assert len(others) == 40
    picked = torch.stack([layers[0][:, 0, 0, 0] for layers in others])  # (40, 4)
    assert (picked != torch.arange(4.0)).all()
    assert set(picked.flatten().tolist()) == {0, 1, 2, 3}
    assert all(torch.equal(layers[1], 10 * layers[0]) for layers in others)


def test_info_nce_divides_both_similarities_by_the_temperature():
    anchor, near, far = torch.randn(3, 2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    want = naive_contrastive("InfoNCE", [anchor], [[near]], [[far]], (1,), 0.5)
    assert float(info_nce(anchor, [near], [far], 0.5)) == pytest.approx(float(want), rel=1e-5)
    values = contrastive("InfoNCE", [anchor], [[near]], [[far]], [1.0], 0.5)[1]
    wanted = {"s_pos": cosine(anchor, near).mean(), "s_neg": cosine(anchor, far).mean()}
    assert values.keys() == wanted.keys(), "logged without the temperature"
    for name, value in wanted.items():
        assert float(values[name]) == pytest.approx(float(value), abs=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_ratios_stay_finite_where_the_anchor_is_the_negative(kind):
    anchor = torch.ones(1, 2, 3, 3)
    positive = anchor * torch.tensor([1.0, -1.0]).view(2, 1, 1)  # orthogonal, at a distance of 1
    loss, _ = contrastive(kind, [anchor], [[positive]], [[anchor]], [1.0])
    assert 0.5 / 3e-7 < float(loss) < 2 / 3e-7


# name: flags, then loss, norm of its gradient at sr, loss of the embedding and sum of the absolute
# weights of the embedding, after each of two steps
STEPS_OF_THE_RELEASE = [
    (
        "CL-patchD",
        "--no_ad_loss --use_wavelet --before_relu --cl_layer 4 --cl_loss_type InfoNCE --contras_D_train",
        [
            (1.09448235, 6.97645288e-05, 9.72235293, 187286.714),
            (1.10299081, 7.10351285e-05, 9.7151601, 187287.162),
        ],
    ),
    (
        "CL-patchD",
        "--no_ad_loss --use_wavelet --cl_layer 2 --cl_loss_type l1",
        [
            (0.995676051, 9.14440275e-05, 8.35058138, 187286.839),
            (1.01011313, 9.56878592e-05, 8.34642436, 187287.141),
        ],
    ),
    (
        "CL-RGAN",
        "--before_relu --cl_layer 4 --cl_loss_type InfoNCE",
        [
            (3.33584643, 0.00207477119, 1.44236036, 521698.725),
            (2.84855244, 0.00178705889, 1.53094041, 521700.131),
        ],
    ),
]


@pytest.mark.parametrize(("name", "more", "steps"), STEPS_OF_THE_RELEASE)
def test_two_steps_of_the_loss_are_those_of_the_release(name, more, steps):
    """Computed in float64 by its code, with the gradient to SR and without in-place activations."""
    base = f"--cpu --scale 2 --patch_size 64 --batch_size 4 --lr 1e-4 --loss {name}"
    term = Adversarial(parse_args([*base.split(), *more.split()]), name)
    state, generator = term.dis.state_dict(), torch.Generator().manual_seed(11)
    for key in sorted(key for key in state if state[key].is_floating_point()):
        value = torch.randn(state[key].shape, generator=generator) * 0.05
        state[key].copy_(value.abs() + 0.5 if key.endswith("running_var") else value)
    for i, (loss, norm, embedding, weights) in enumerate(steps):
        generator = torch.Generator().manual_seed(200 + i)
        draws = [torch.randint(0, 256, (4, 3, 64, 64), generator=generator) for _ in range(5)]
        sr, hr, positive, *negatives = (x.float() for x in draws)
        value = term(sr.requires_grad_(), hr, [hr, positive], negatives)
        value.backward()
        found = (value.detach(), sr.grad.norm(), term.log_values()["embedding"])
        assert [float(x) for x in found] == pytest.approx([loss, norm, embedding], rel=2e-3), i
        assert float(value.detach()) == pytest.approx(loss, rel=1e-4), i
        total = sum(float(p.detach().double().abs().sum()) for p in term.dis.parameters())
        assert total == pytest.approx(weights, rel=1e-7), i
