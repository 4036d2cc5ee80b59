"""The checks of the exercises: each judges a student's function on random input.

The oracle is a closed form, so that a check accepts any right implementation and needs no stored answer. A check
returns the number that it judged, for the PASS line; it raises AssertionError that says what is wrong, but not what
would be right. The input is different in every call unless a generator is given. Functions get copies of tensors.
"""

from hw3utils.course.checks.building_blocks import check_training_config
from hw3utils.course.checks.diffusion import (
    check_features,
    check_frechet_distance,
    check_linear_schedule,
    check_noise_network,
    check_noise_prediction_loss,
    check_perturb_input,
    check_reverse_path,
    check_sample_ddim,
    check_sample_ddpm,
    check_sampling_pair,
)
from hw3utils.course.checks.flows import (
    check_flow_log_prob,
    check_flow_matching_loss,
    check_heun,
    check_reverse_drift,
    check_sample_flow,
    check_trace_estimate,
)
from hw3utils.course.checks.langevin import (
    check_annealed_langevin,
    check_ascent,
    check_denoise,
    check_langevin,
    check_starting_points,
)
from hw3utils.course.checks.optional import check_guided, check_posterior, check_time_embedding
from hw3utils.course.checks.score import (
    check_denoising_score_matching,
    check_implicit_score_matching,
    check_mixture_score,
    check_perturbed_score,
    check_sliced_score_matching,
)
from hw3utils.course.checks.training import check_score_training, check_training_step
from hw3utils.course.workshop import exercise

__all__ = [
    "check_annealed_langevin",
    "check_ascent",
    "check_denoise",
    "check_denoising_score_matching",
    "check_features",
    "check_flow_log_prob",
    "check_flow_matching_loss",
    "check_frechet_distance",
    "check_guided",
    "check_heun",
    "check_implicit_score_matching",
    "check_langevin",
    "check_linear_schedule",
    "check_mixture_score",
    "check_noise_network",
    "check_noise_prediction_loss",
    "check_perturb_input",
    "check_perturbed_score",
    "check_posterior",
    "check_reverse_drift",
    "check_reverse_path",
    "check_sample_ddim",
    "check_sample_ddpm",
    "check_sample_flow",
    "check_sampling_pair",
    "check_score_training",
    "check_sliced_score_matching",
    "check_starting_points",
    "check_time_embedding",
    "check_trace_estimate",
    "check_training_config",
    "check_training_step",
]

# Each check remembers what has passed it, so that a notebook goes on with the student's own function.
for _name in __all__:
    globals()[_name] = exercise(globals()[_name])
