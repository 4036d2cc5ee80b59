"""The networks: shapes, the zero start, labels and guidance, precision, and that nothing is made in a forward pass."""

import json
import math

import pytest
import torch
from tiny import unet
from torch.nn import functional as F
from torch.testing import assert_close

from hw3utils.bench.peers import ContextUnet
from hw3utils.learning.networks import Attention, EpsMLP, ScoreMLP, SpriteClassifier, UNet, sinusoidal_embedding
from hw3utils.learning.training import seeded
from hw3utils.losses import implicit_score_matching
from hw3utils.samplers import guided
from hw3utils.schedules import linear_schedule


def without_zeros(network, seed=0):
    """The network with small numbers in the layers that start at zero, which would hide the layers before them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1, generator=generator)
    return network


def tiny(**options):
    return unet(**{"n_classes": 3, **options})


@pytest.fixture
def network():
    return without_zeros(tiny())


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([1, 7, 500, 1000]), torch.tensor([0, 1, 2, 3])


def size(network):
    return sum(parameter.numel() for parameter in network.parameters())


# ------------------------------------------------------------------------------------------------- the time embedding


@pytest.mark.parametrize("t", [torch.tensor([0, 1, 17, 1000]), torch.tensor([0.5, 999.0], dtype=torch.float64)])
def test_embedding_is_its_formula(t):
    got = sinusoidal_embedding(t, 6)
    expected = [[f(float(step) / 10_000 ** (2 * i / 6)) for f in (math.sin, math.cos) for i in range(3)] for step in t]
    assert got.dtype == torch.float32
    assert_close(got, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dimension", [5, 0, -2, 4.0])
def test_embedding_refuses_a_wrong_dimension(dimension):
    with pytest.raises(ValueError, match=f"dimension is {dimension}"):
        sinusoidal_embedding(torch.tensor([1]), dimension)


# ------------------------------------------------------------------------------------------------------------ the UNet


@pytest.mark.parametrize(("side", "n"), [(8, 1), (8, 5), (16, 2)])
def test_answer_has_the_form_of_the_question(network, side, n):
    x = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    eps = network(x, torch.full((n,), 9))
    assert eps.shape == x.shape
    assert eps.dtype == x.dtype
    assert eps.isfinite().all()


def test_one_level_and_other_channels_work():
    network = without_zeros(tiny(channels=1, widths=(8,), blocks_down=(2,), blocks_up=(1,)))
    x = torch.randn(2, 1, 6, 10, generator=torch.Generator().manual_seed(0))
    assert network(x, torch.tensor([1, 2])).shape == x.shape
    with pytest.raises(ValueError, match="sides a multiple of 2"):
        network(x[:, :, :5], torch.tensor([1, 2]))


def test_the_attention_that_is_written_out_is_the_librarys():
    layer = without_zeros(seeded(lambda: Attention(8, 4), 0))
    x = torch.randn(2, 8, 6, 10, generator=torch.Generator().manual_seed(0))
    h = layer.norm(x)
    query, key, value = (part.flatten(2).mT for part in (layer.query(h), *layer.key_value(h).chunk(2, dim=1)))
    assert key.shape == (2, 15, 8)
    mixed = F.scaled_dot_product_attention(query, key, value)
    assert_close(layer(x), x + layer.out(mixed.mT.reshape(x.shape)))


def test_it_starts_at_zero(batch):
    x, t, label = batch
    assert not tiny()(x, t, label).any()


def test_with_a_schedule_it_starts_at_the_linear_guess(batch):
    x, t, label = batch
    schedule = linear_schedule()
    network = tiny(schedule=schedule.card())
    assert_close(network(x, t, label), schedule.noise[t].float()[:, None, None, None] * x)
    # Awake, what the layers compute enters with the factor signal_t.
    plain, built = without_zeros(tiny()), without_zeros(network)
    expected = schedule.noise[t].float()[:, None, None, None] * x + schedule.signal[t].float()[
        :, None, None, None
    ] * plain(x, t, label)
    assert_close(built(x, t, label), expected)
    assert built.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("schedule", [None, linear_schedule(1000).card()])
def test_every_parameter_gets_a_gradient(schedule, batch):
    network = without_zeros(tiny(schedule=schedule))
    network(*batch).square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert without == []


def test_the_last_label_is_no_label(network, batch):
    x, t, _ = batch
    assert torch.equal(network(x, t, torch.full((4,), 3)), network(x, t))


def test_time_and_label_matter(network, batch):
    x, t, label = batch
    eps = network(x, t, label)
    assert (network(x, t + 1, label) - eps).abs().amax((1, 2, 3)).min() > 1e-4
    assert (network(x, t, (label + 1) % 4) - eps).abs().amax((1, 2, 3)).min() > 1e-4


def test_nothing_is_made_in_forward(network, batch):
    before = [name for name, _ in network.named_modules()], size(network)
    first = network(*batch)
    assert torch.equal(network(*batch), first)
    assert ([name for name, _ in network.named_modules()], size(network)) == before


def test_samples_do_not_see_each_other(network, batch):
    x, t, label = batch
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(4)])
    assert_close(network(x, t, label), alone, rtol=1e-5, atol=1e-5)


def test_the_order_of_memory_changes_nothing(network, batch):
    x, t, label = batch
    plain = network(x, t, label)
    last = x.contiguous(memory_format=torch.channels_last)
    assert_close(network(last, t, label), plain, rtol=1e-5, atol=1e-5)
    assert_close(network.to(memory_format=torch.channels_last)(last, t, label), plain, rtol=1e-5, atol=1e-5)


def test_in_autocast_the_answer_and_the_attention_stay_in_fp32(network, batch, monkeypatch):
    plain = network(*batch)
    seen = []
    product = torch.bmm

    def watched(*factors):
        made = product(*factors)
        seen.extend(tensor.dtype for tensor in (*factors, made))
        return made

    monkeypatch.setattr(torch, "bmm", watched)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(*batch)
    assert half.dtype == torch.float32
    assert seen == [torch.float32] * 6  # weights of the keys, and the mixed values
    assert not torch.equal(half, plain)
    assert_close(half, plain, rtol=0, atol=0.05 * plain.abs().max().item())


def test_the_recipe_has_one_to_two_million_parameters():
    assert 1e6 < size(UNet()) < 2e6


def test_config_is_plain_and_rebuilds_the_network():
    network = tiny(schedule=linear_schedule(50).card())
    again = UNet(**json.loads(json.dumps(network.config)))
    assert again.config == network.config
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks_up": (1,)}, r"got lengths 2, 2 and 1"),
        ({"widths": (8, 18)}, r"multiple of groups = 4: got \(8, 18\)"),
        ({"widths": ()}, r"widths is \(\), expected one number for each of 1 to 8 levels"),
        ({"widths": "32"}, r"widths is '32'"),
        ({"widths": 32}, r"widths is 32"),
        ({"widths": (8, -16)}, r"a number in widths is -16"),
        ({"widths": (8, 16.0)}, r"a number in widths is 16.0"),
        ({"widths": (8, 2**40)}, r"a number in widths is 1099511627776, expected an integer in 1..1024"),
        ({"blocks_down": (1, 0)}, r"a number in blocks_down is 0"),
        ({"groups": 0}, r"groups is 0"),
        ({"channels": 0}, r"channels is 0"),
        ({"n_classes": -1}, r"n_classes is -1"),
        ({"time_width": 0}, r"time_width is 0"),
        ({"schedule": {"name": "sigmoid"}}, r"the schedule's name is 'sigmoid'"),
    ],
)
def test_it_refuses_a_wrong_architecture(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t, label: (x[0], t, label), r"\(3, 8, 8\)"),
        (lambda x, t, label: (x[:, :1], t, label), r"\(4, 1, 8, 8\)"),
        (lambda x, t, label: (x[..., :7], t, label), r"\(4, 3, 8, 7\)"),
        (lambda x, t, label: (x.to(torch.uint8), t, label), r"uint8"),
        (lambda x, t, label: (x, t[:2], label), r"t \(2,\)"),
        (lambda x, t, label: (x, t[:, None], None), r"t \(4, 1\)"),
        (lambda x, t, label: (x, t, label[:1]), r"label \(1,\)"),
        (lambda x, t, label: (x, t / 1000, label), r"t torch.float32"),
        (lambda x, t, label: (x, t, label.float()), r"label torch.float32"),
    ],
)
def test_it_refuses_wrong_input(network, batch, change, message):
    with pytest.raises(ValueError, match=message):
        network(*change(*batch))


# ------------------------------------------------------------------------------------------------------------ guidance


def test_guidance_one_is_the_label_and_zero_is_none(network, batch):
    x, t, label = batch
    assert torch.equal(guided(network)(x, t, label), network(x, t, label))
    assert torch.equal(guided(network, guidance=0)(x, t, label), network(x, t))


@pytest.mark.parametrize("w", [-1.0, 0.3, 2.0, 7.5])
def test_guidance_is_linear_in_between_and_beyond(network, batch, w):
    x, t, label = batch
    expected = (1 - w) * network(x, t) + w * network(x, t, label)
    assert (network(x, t) - network(x, t, label))[:3].abs().max() > 1e-3
    assert_close(guided(network, guidance=w)(x, t, label), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("w", [math.nan, math.inf, "2", None])
def test_guidance_refuses_what_is_no_number(network, w):
    with pytest.raises(ValueError, match="guidance"):
        guided(network, guidance=w)


# ------------------------------------------------------------------------------------------------ the course's network


def test_context_unet_has_its_published_size():
    assert round(size(ContextUnet()) / 1e6, 2) == 1.48


def test_context_unet_makes_nothing_in_forward():
    network = seeded(lambda: ContextUnet(features=8, n_classes=3), 0).eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 900])
    before = size(network)
    eps = network(x, t, torch.tensor([0, 3]))
    assert eps.shape == x.shape
    assert torch.equal(network(x, t, torch.tensor([0, 3])), eps)
    assert size(network) == before
    assert torch.equal(network(x, t, torch.tensor([3, 3])), network(x, t))
    assert not torch.equal(network(x, t, torch.tensor([0, 1])), network(x, t))


# ------------------------------------------------------------------------------------------------------------ ScoreMLP


def test_score_mlp_ignores_sigma_unless_it_is_conditional():
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    plain = seeded(lambda: ScoreMLP(), 0)
    assert torch.equal(plain(x), plain(x, 3.0))
    conditional = seeded(lambda: ScoreMLP(conditional=True), 0)
    levels = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0])
    together = conditional(x, levels)
    assert together.shape == x.shape
    for i, level in enumerate(levels):
        torch.testing.assert_close(together[i : i + 1], conditional(x[i : i + 1], float(level)))


def test_score_mlp_is_smooth_enough_for_an_exact_trace():
    network = seeded(lambda: ScoreMLP(dimension=3).double(), 0)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: network(p[None])[0]))(x)
    want = jacobian.diagonal(dim1=1, dim2=2).sum(1) + network(x).square().sum(1) / 2
    torch.testing.assert_close(implicit_score_matching(network, x), want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScoreMLP(dimension=0), "dimension is 0"),
        (lambda: ScoreMLP()(torch.zeros(3, 3)), r"points \(B, 2\)"),
        (lambda: ScoreMLP(conditional=True)(torch.zeros(3, 2), 0.0), "above 0"),
        (lambda: ScoreMLP(conditional=True)(torch.zeros(3, 2), torch.ones(2)), r"one a point \(3,\)"),
    ],
)
def test_what_score_mlp_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------------------------------------------- dtypes

X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
T, POINTS = torch.tensor([1, 20, 50]), X.flatten(1)[:, :2]
ANY_DTYPE = {
    "UNet": (lambda: without_zeros(unet(schedule=linear_schedule(50).card())), lambda network, x: network(x, T), X),
    "score": (lambda: ScoreMLP(conditional=True), lambda network, x: network(x, 2.0), POINTS),
    "plain score": (ScoreMLP, lambda network, x: network(x), POINTS),
    "eps": (lambda: EpsMLP(schedule=linear_schedule(50).card()), lambda network, x: network(x, T), POINTS),
    "classifier": (lambda: SpriteClassifier(attributes={"a": 3}), lambda network, x: network(x)["a"], X),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ANY_DTYPE)
@torch.no_grad()
def test_weights_and_data_of_any_dtype(kind, dtype):
    make, call, x = ANY_DTYPE[kind]
    network = seeded(make, 0).eval()
    exact = call(network, x)
    network.to(dtype)
    tolerance = 1e-5 if dtype == torch.float64 else 40 * torch.finfo(dtype).eps
    for given in (x, x.to(dtype)):
        made = call(network, given)
        assert made.dtype == given.dtype
        torch.testing.assert_close(made.float(), exact, rtol=tolerance, atol=tolerance)


def test_a_network_made_under_another_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        network = unet(schedule=linear_schedule(50).card())
    finally:
        torch.set_default_dtype(torch.float32)
    assert network(X, T).dtype == torch.float32
    assert network(X.double(), T).dtype == torch.float64
