"""What is put together over time: equal to what it stands for, and a cost that is linear in the clip's length."""

import numpy as np
import pytest
import torch
from clips_for_tests import make_clip, tiny_mask, tiny_model

from pretrain.attention import Rows, packed_attention
from pretrain.encoder import Encoder
from pretrain.objective import MaskedAutoencoder
from pretrain.pooling import Groups, Moments, plan
from pretrain.tokens import join, tokenize


def open_gates(model):
    for name, parameter in model.named_parameters():
        if ".gates." in name:
            torch.nn.init.normal_(parameter, 0, 0.5)
    return model


def layout_of(clip, config):
    return plan({name: join([part]) for name, part in tokenize(clip, 0, config, config.modalities).items()}, config)


def test_a_pooled_key_counts_as_much_as_the_tokens_that_it_stands_for():
    config = tiny_model(pool_seconds=0.6)  # 2 or 3 tubelets of 0.25 s
    clip = make_clip()
    clip.views["cam0"].frames[:] = clip.views["cam0"].frames[:1]
    layout = layout_of(clip, config)
    assert len(set(layout.pool.size.tolist())) > 1
    x = torch.randn(
        len(layout.pool.size), 1, 4, dtype=torch.float64
    )  # what a pooled row holds, all its tokens the same
    query = torch.randn(len(layout.query_time.seconds), 1, 4, dtype=torch.float64)
    source = layout.sources["video_scene"]
    assert source.weighted
    pooled = packed_attention(query, x, x, source, layout.key_weight)
    start = 0
    for number, length in enumerate(source.key_lengths):
        rows = source.key.index[start : start + length]
        each = x[rows].repeat_interleave(layout.pool.size[rows], 0)[:, 0]
        begin = int(source.query_lengths[:number].sum())
        mine = source.query.index[begin : begin + source.query_lengths[number]]
        expected = (query[mine, 0] @ each.T / 2).softmax(-1) @ each
        torch.testing.assert_close(pooled[mine, 0], expected)
        start += length


def test_attention_pooling_starts_as_the_mean_and_learns_to_differ():
    clip = make_clip()
    outputs = []
    for pooling in ("mean", "attention"):
        torch.manual_seed(0)
        encoder = Encoder(tiny_model(pooling=pooling, pool_seconds=1.0)).double().eval()
        torch.manual_seed(1)
        for name, parameter in sorted(encoder.named_parameters()):
            if not name.endswith("score.weight"):
                torch.nn.init.normal_(parameter, 0, 0.1)
        outputs.append(encoder.encode_clips([clip]).tokens)
    torch.testing.assert_close(*outputs)
    outputs[1].square().sum().backward()
    score = encoder.trunk.blocks[0].reading.score.weight
    assert score.grad.abs().max() > 0
    torch.nn.init.normal_(score)
    assert (encoder.encode_clips([clip]).tokens - outputs[0]).abs().max() > 1e-4


def test_weighted_means_have_the_right_gradient():
    groups = Groups(Rows(np.array([0, 2, 3, 5])), torch.tensor([0, 1, 1, 0]), torch.tensor([2, 2]))
    x, score = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((6, 3), (6,)))
    expected = (score[[2, 3]].softmax(0)[:, None] * x[[2, 3]]).sum(0)
    torch.testing.assert_close(groups.weighted_mean(x, score)[1], expected)
    assert torch.autograd.gradcheck(groups.weighted_mean, (x, score))
    assert torch.autograd.gradcheck(groups.mean, (x,))


def test_rotation_sees_differences_of_time_alone_even_after_hours():
    x = torch.randn(2, 1, 8)
    near, far = (Moments(np.array([start, start + 0.3])).rotate(x) for start in (0.0, 36000.0))
    torch.testing.assert_close((near[0] * near[1]).sum(), (far[0] * far[1]).sum(), rtol=1e-5, atol=1e-5)
    later = Moments(np.array([0.0, 0.7])).rotate(x)
    assert abs((near[0] * near[1]).sum() - (later[0] * later[1]).sum()) > 1e-3
    half = Moments(np.array([1.0]))
    assert torch.autograd.gradcheck(half.rotate, (torch.randn(1, 1, 4, dtype=torch.float64, requires_grad=True),))


def test_upper_layers_on_fewer_tokens_keep_the_number_of_features():
    clip = make_clip()
    for rate in (2, 4):
        encoder = open_gates(Encoder(tiny_model(upper_layers=1, upper_rate=rate, final_norm=False))).double().eval()
        whole = Encoder(tiny_model(final_norm=False)).double().eval()
        whole.load_state_dict(encoder.state_dict())
        layout = layout_of(clip, encoder.config)
        assert len(layout.upper.layout.query_time.seconds) * rate == len(layout.query_time.seconds)
        with torch.no_grad():
            out, full = encoder.encode_clips([clip]), whole.encode_clips([clip])
        assert out.tokens.shape == full.tokens.shape
        assert (out.tokens - full.tokens).abs().max() > 1e-3
    autoencoder = MaskedAutoencoder(tiny_model(upper_layers=1, upper_rate=2), tiny_mask())
    losses = autoencoder(autoencoder.collate([clip], [0]))
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())


def test_a_causal_encoder_sees_nothing_of_later_chunks():
    clip, other = make_clip(seconds=8.0), make_clip(seconds=8.0)
    other.views["cam0"].frames[48:] = 0
    other.views["cam0"].face["landmarks"][other.views["cam0"].face["window"] >= 48] += 1
    for causal in (True, False):
        torch.manual_seed(0)
        encoder = open_gates(Encoder(tiny_model(causal=causal))).double().eval()
        with torch.no_grad():
            one, two = encoder.encode_clips([clip]), encoder.encode_clips([other])
        early = one.time < 6.0
        assert torch.equal(one.tokens[early], two.tokens[early]) == causal


def test_what_is_read_grows_linearly_with_the_clip():
    config = tiny_model()
    pairs = []
    for seconds in (8.0, 16.0, 32.0):
        layout = layout_of(make_clip(seconds=seconds), config)
        pairs.append(sum(int((s.query_lengths * s.key_lengths).sum()) for s in (*layout.sources.values(), layout.own)))
    assert pairs[2] - pairs[1] <= 2.01 * (pairs[1] - pairs[0])


@pytest.mark.parametrize("changes", [{}, {"causal": True, "pool_seconds": 0.6}, {"upper_layers": 1, "upper_rate": 2}])
def test_part_by_part_equals_all_at_once(changes, monkeypatch):
    monkeypatch.setattr("pretrain.pooling.PART", 40)
    torch.manual_seed(0)
    encoder = open_gates(Encoder(tiny_model(**changes))).double().eval()
    clips = [make_clip(seconds=7.0, views=2), make_clip(seed=1, people=3)]
    clips[1].views["cam0"].audio = None
    at_once = encoder.encode_clips(clips).tokens
    sizes = []
    encoder.trunk.blocks[0].mlp.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    with torch.no_grad():
        parts = encoder.encode_clips(clips).tokens
    assert sum(sizes) == len(at_once)
    assert len(sizes) > 10
    assert max(sizes) < 40 + 32  # 32: the longest block
    torch.testing.assert_close(parts, at_once, rtol=1e-12, atol=1e-12)


def test_activation_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = open_gates(MaskedAutoencoder(tiny_model(), tiny_mask())).double()
        model.encoder.trunk.checkpointing = checkpointing
        sum(model(model.collate([make_clip()], [0])).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)


def test_bfloat16_stays_near_float32():
    torch.manual_seed(0)
    encoder = open_gates(Encoder(tiny_model())).eval()
    clip = make_clip()
    with torch.no_grad():
        full = encoder.encode_clips([clip]).tokens
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder.encode_clips([clip]).tokens
    assert ((half - full).norm() / full.norm()) < 0.02


def test_gradients_of_a_whole_trunk_are_those_of_small_differences():
    """Pooling that learns, relative time, keys that weigh unequally and upper layers on fewer tokens, all together."""
    config = tiny_model(
        dim=6, heads=3, mlp_dim=6, layers=2, upper_layers=1, upper_rate=2, pooling="attention", pool_seconds=0.6,
        streams={"audio": tiny_model().streams["audio"]}, image_height=16, image_width=16,
    )  # fmt: skip
    clip = make_clip(seconds=3.0, size=16)
    layout = layout_of(clip, config)
    assert any(source.weighted for source in layout.sources.values())
    torch.manual_seed(0)
    trunk = Encoder(config).double().trunk
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    names, parameters = zip(*trunk.named_parameters(), strict=True)
    x = torch.randn(len(layout.query_time.seconds), 6, dtype=torch.float64, requires_grad=True)

    def run(x, *values):
        return torch.func.functional_call(trunk, dict(zip(names, values, strict=True)), (x, layout))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)
