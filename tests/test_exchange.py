"""Exchange with diffusers: its models in our samplers and our weights in its pipeline give the same pictures."""

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, UNet2DModel

from hw3utils import load_pretrained
from hw3utils.learning.exchange import from_diffusers, to_diffusers
from hw3utils.learning.networks import UNet
from hw3utils.samplers import sample_ddim
from hw3utils.schedules import linear_schedule


def their_unet(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1}
        blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        return UNet2DModel(sample_size=8, in_channels=3, out_channels=3, **sizes, **blocks, **options).eval()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_their_model_in_our_ddim_is_their_pipeline(prediction):
    scheduler = DDIMScheduler(
        1000, prediction_type=prediction, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
    )
    unet = their_unet()
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    pipeline = DDIMPipeline(unet=unet, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(2, torch.Generator().manual_seed(1), num_inference_steps=10, output_type="np").images
    eps_model, schedule = from_diffusers(unet, scheduler)
    ours = sample_ddim(eps_model, noise, schedule, steps=10)
    theirs = torch.from_numpy(made).permute(0, 3, 1, 2)
    # Their pipeline clamps to [0, 1]; float32 from one end to the other.
    assert ((ours / 2 + 0.5).clamp(0, 1) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_label_goes_through_to_their_model(prediction):
    unet = their_unet(num_class_embeds=4)
    eps_model, schedule = from_diffusers(unet, DDPMScheduler(100, prediction_type=prediction))
    x, t, label = torch.ones(2, 3, 8, 8), torch.tensor([1, 100]), torch.tensor([0, 3])
    a, b = (level[t].float()[:, None, None, None] for level in (schedule.signal, schedule.noise))
    with torch.no_grad():
        theirs = unet(x, t - 1, class_labels=label).sample
        wanted = {"epsilon": theirs, "v_prediction": a * theirs + b * x, "sample": (x - a * theirs) / b}[prediction]
        assert (eps_model(x, t, label=label) - wanted).abs().max() < 1e-4


def test_our_weights_as_their_folder_sample_the_same_pictures(tmp_path):
    network, schedule = load_pretrained("sprites")
    pipeline = DDIMPipeline.from_pretrained(to_diffusers(network, schedule, tmp_path / "sprites"))
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(3, torch.Generator().manual_seed(1), num_inference_steps=10, output_type="np").images
    noise = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    ours = (sample_ddim(network, noise, schedule, steps=10) / 2 + 0.5).clamp(0, 1)
    assert (ours - torch.from_numpy(made).permute(0, 3, 1, 2)).abs().max() < 1e-3


def test_other_sides_and_channels_go_out_too(tmp_path):
    schedule = linear_schedule(20)
    network = UNet(channels=1, widths=(8, 16), blocks_down=(1, 1), blocks_up=(1, 1), schedule=schedule.card())
    pipeline = DDIMPipeline.from_pretrained(to_diffusers(network, schedule, tmp_path, side=24))
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(2, torch.Generator().manual_seed(1), num_inference_steps=2, output_type="np").images
    assert made.shape == (2, 24, 24, 1)


def test_a_scheduler_that_does_not_say_enough_is_refused():
    with pytest.raises(ValueError, match=r"float.*alphas_cumprod"):
        from_diffusers(their_unet(), 1.0)
    odd = DDPMScheduler(10)
    odd.register_to_config(prediction_type="flow")
    with pytest.raises(ValueError, match="'flow'"):
        from_diffusers(their_unet(), odd)
    assert from_diffusers(their_unet(), EulerDiscreteScheduler(10))[1].T == 10


def test_their_model_is_sampled_in_evaluation_mode():
    unet = their_unet(dropout=0.5).train()
    eps_model, schedule = from_diffusers(unet, DDPMScheduler(100))
    x = torch.ones(2, 3, 8, 8)
    assert torch.equal(*(sample_ddim(eps_model, x, schedule, steps=2) for _ in range(2)))
    assert all(module.training for module in unet.modules())
