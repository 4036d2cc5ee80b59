"""Sizes of the notebooks' experiments: quick for a laptop, full for the homework's own numbers.

The tiny ones are for grading and its tests: every cell runs quickly, most experiments show nothing.
"""

import os
from dataclasses import dataclass

PROFILE_VARIABLE = "HW3_PROFILE"


@dataclass(frozen=True)
class Profile:
    """Sizes of the experiments of each notebook.

    Args:
        name: "quick", "full" or "tiny".
        chain_samples: 01, pictures' worth of pixels run through the 1000 steps of the forward chain.
        bound_samples: 01, draws for the Monte Carlo bound.
        live_steps: 02, optimizer steps trained in the notebook.
        live_heldout: 02, held-out pictures behind each point of the curve.
        samples: 02 and 03, pictures shown of each sampler.
        ladder_samples: 03, pictures of each number of steps, up to 200.
        timed_samples: 03, pictures whose sampling is timed.
        early_stop_samples: 03, pictures of each T' of ES-DDPM.
        fid_real: 04, new pictures of the grammar, in groups of 500 or a twentieth.
        fid_small: 04, pictures of each grid in the optional part.
        fid_damaged: 04, held-out pictures of each damage.
        fid_nearest: 04, samples whose nearest training picture is looked for.
        score_steps: 05, steps of the network for sigma = 1, 3, 7; a quarter of them for each of the others.
        conditional_steps: 06, steps of the network for all sigma; half of them for the one for all t.
        langevin_steps: 06, steps of the annealed chain at each of 20 levels, even.
        annealed_samples: 06, points of the annealed chains, a multiple of 400.
        flow_samples: 07, points of each sampler, a multiple of 100.
        flow_steps: 07, optimizer steps of each network.
    """

    name: str
    chain_samples: int
    bound_samples: int
    live_steps: int
    live_heldout: int
    samples: int
    ladder_samples: int
    timed_samples: int
    early_stop_samples: int
    fid_real: int
    fid_small: int
    fid_damaged: int
    fid_nearest: int
    score_steps: int
    conditional_steps: int
    langevin_steps: int
    annealed_samples: int
    flow_samples: int
    flow_steps: int


PROFILES = {
    "quick": Profile(
        "quick",
        chain_samples=20_000,
        bound_samples=2_000,
        live_steps=600,
        live_heldout=256,
        samples=50,
        ladder_samples=8,
        timed_samples=8,
        early_stop_samples=256,
        fid_real=10_000,
        fid_small=200,
        fid_damaged=2_000,
        fid_nearest=300,
        score_steps=4_000,
        conditional_steps=8_000,
        langevin_steps=60,
        annealed_samples=4_000,
        flow_samples=4_000,
        flow_steps=1_500,
    ),
    "full": Profile(
        "full",
        chain_samples=200_000,
        bound_samples=20_000,
        live_steps=50_000,
        live_heldout=1024,
        samples=50,
        ladder_samples=8,
        timed_samples=50,
        early_stop_samples=2_000,
        fid_real=20_000,
        fid_small=1000,
        fid_damaged=4_096,
        fid_nearest=2_000,
        score_steps=10_000,
        conditional_steps=30_000,
        langevin_steps=200,
        annealed_samples=4_000,
        flow_samples=20_000,
        flow_steps=10_000,
    ),
    "tiny": Profile(
        "tiny",
        chain_samples=500,
        bound_samples=50,
        live_steps=3,
        live_heldout=8,
        samples=2,
        ladder_samples=1,
        timed_samples=1,
        early_stop_samples=4,
        fid_real=2_500,
        fid_small=10,
        fid_damaged=150,
        fid_nearest=2,
        score_steps=8,
        conditional_steps=4,
        langevin_steps=2,
        annealed_samples=400,
        flow_samples=100,
        flow_steps=4,
    ),
}


def current_profile() -> Profile:
    """The profile of the environment variable HW3_PROFILE, quick if it is not set.

    Raises:
        ValueError: on an unknown name.
    """
    name = os.environ.get(PROFILE_VARIABLE) or "quick"
    if name not in PROFILES:
        raise ValueError(f"{PROFILE_VARIABLE} is {name!r}, expected one of {', '.join(PROFILES)}.")
    return PROFILES[name]
