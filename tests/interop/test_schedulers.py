"""Configs of diffusers' schedulers, read without diffusers: what they stand for, and refusals."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, linear_betas

import diffjax as dj
from diffjax.interop.schedulers import scheduler_config
from diffjax.interop.schedulers.betas import LEAST_ALPHA_BAR, Betas, tabled
from diffjax.interop.schedulers.steps import IndexDDIM, IndexPNDM
from diffjax.interop.schedulers.times import FlowLevels, NoiseLevels, TrainingSteps
from diffjax.samplers.base import sample
from diffjax.samplers.dpmpp_2m_sde import DPMpp2MSDE
from diffjax.samplers.euler import Euler
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.scaled_linear import ScaledLinear
from diffjax.schedules.sigmoid import Sigmoid
from diffjax.typing import Prediction

SD15 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,  # of the class that was there before
    "tensor_format": "pt",  # of the first releases
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def of(name, **options):
    return dj.scheduler_from_config({"_class_name": f"{name}Scheduler", **options})


def test_stable_diffusions_own(tmp_path):
    """From its file, its folder, and its pipeline's folder; nothing is warned of."""
    (tmp_path / "scheduler").mkdir()
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(SD15))
    with warnings.catch_warnings(action="error"):
        found = [dj.scheduler_from_config(p) for p in (path, str(path.parent), tmp_path, SD15)]
    assert found[0] == found[1] == found[2] == found[3]
    scheduler = found[0]
    assert scheduler.process == dj.Process(ScaledLinear())
    assert scheduler.sampler == IndexPNDM("eps")
    times = scheduler.spacing.times(scheduler.process.schedule, 50)
    np.testing.assert_allclose(times * 1000 - 1, [*range(981, 0, -20), 0], atol=1e-3)
    assert scheduler.sampler.nfe(50) == 51
    assert float(scheduler.noise_scale(jnp.asarray(times[0]))) == pytest.approx(1, abs=1e-6)


def test_what_is_missing_has_the_defaults_of_the_class():
    assert of("DDIM").sampler == IndexDDIM("leading", clean=True, limit=1.0)
    assert of("DDIM").process == dj.Process(Linear())
    assert of("DPMSolverMultistep").sampler == DPMpp2MSDE(0.0, "midpoint", lower_final=True)
    heun = of("HeunDiscrete", timestep_spacing="trailing").process.schedule
    assert heun == Linear(beta_start=0.00085, beta_end=0.012)


def test_noise_of_x_over_alpha():
    """Its size is sigma, and with leading times that of x with its signal."""
    for spacing, expected in (("trailing", 0.9976), ("leading", 1.0)):
        scheduler = of("EulerDiscrete", beta_schedule="scaled_linear", beta_start=0.00085,
                       beta_end=0.012, timestep_spacing=spacing)  # fmt: skip
        assert float(scheduler.noise_scale(jnp.ones(()))) == pytest.approx(expected, abs=1e-4)


def test_a_table_of_betas():
    table = tuple(linear_betas().tolist())
    assert np.array_equal(Betas(table=table).log_snr_table, Linear().log_snr_table)
    straight, index = Betas(table=table, straight=True), jnp.asarray([0.0, 400.0, 400.25, 999.0])
    sigma = np.exp(-Linear().log_snr_table / 2)
    np.testing.assert_allclose(
        straight.sigma_ve((index + 1) / 1000),
        [sigma[0], sigma[400], 0.75 * sigma[400] + 0.25 * sigma[401], sigma[999]],
        rtol=1e-5,
    )


def test_a_table_has_a_little_signal_at_its_end():
    zero = ScaledLinear(zero_terminal_snr=True)
    table = tabled(zero)
    assert not table.zero_terminal
    np.testing.assert_allclose(table.log_snr_table[:-1], zero.log_snr_table[:-1], rtol=1e-9)
    odds = LEAST_ALPHA_BAR / (1 - LEAST_ALPHA_BAR)
    assert np.exp(table.log_snr_table[-1]) == pytest.approx(odds, rel=1e-6)
    with pytest.raises(dj.UserError, match=r"alpha_bar would rise from 4.*e-09 to 5.96e-08"):
        tabled(Linear(zero_terminal_snr=True))


def test_times_of_training_steps():
    """Lin et al. 2024, table 2; one step more and the last left out; the ends."""
    for spacing, index in (
        (TrainingSteps("leading", 1), [901, 801, 701, 601, 501, 401, 301, 201, 101, 1, -1]),
        (TrainingSteps("linspace"), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0, -1]),
        (TrainingSteps("trailing", last=1e-3), [*range(999, 0, -100), 0]),
        (TrainingSteps("linspace", left_out=True), [*np.round(np.linspace(999, 99.9, 10)), -1]),
        (TrainingSteps("leading", left_out=True), [*range(900, 0, -90), -1]),
    ):
        found = spacing.times(Linear(), 10) * 1000 - 1
        np.testing.assert_allclose(found, index, atol=1e-3, err_msg=str(spacing))


def test_levels_by_a_law():
    """Karras et al. 2022, eq. 5, and equal ratios, between the ends that are given."""
    for law, power in (("karras", 7), ("exponential", 1e6)):
        times = NoiseLevels(law, low=0.1, high=10.0).times(ScaledLinear(), 5)[:-1]
        roots = np.linspace(10 ** (1 / power), 0.1 ** (1 / power), 5)
        sigma = ScaledLinear().sigma_ve(jnp.asarray(times))
        np.testing.assert_allclose(sigma, roots**power, rtol=1e-4)
    held = NoiseLevels("karras", last=None).times(ScaledLinear(), 5)
    assert 0.999999 < held[-1] / held[-2] < 1


def test_levels_of_a_flow():
    """Shifted once from 1 to a level that was shifted before (Esser et al. 2024, eq. 23)."""
    first, last = FlowLevels(3.0).times(Flow(), 2)[:2]
    least = 0.003 / 1.002
    assert (first, last) == pytest.approx((1.0, 3 * least / (1 + 2 * least)), rel=1e-5)


@pytest.mark.parametrize(("kind", "stride"), [("trailing", 142), ("linspace", 142)])
def test_ddim_goes_back_by_whole_steps(kind, stride):
    """A thousand over seven, cut: to where it says is seen from the noise that it leaves."""
    scheduler = of("DDIM", timestep_spacing=kind, clip_sample=False, set_alpha_to_one=False)
    schedule = scheduler.process.schedule
    times = scheduler.spacing.times(schedule, 7)
    x, keys = jnp.ones((1, 1, 1, 1)), dj.sample_keys(jax.random.key(0), 0, 1)

    def denoise(x, t):
        return Prediction(jnp.zeros_like(x), jnp.ones_like(x))

    for i in (0, 3, 6):
        t, s = jnp.asarray(times[i]), jnp.asarray(times[i + 1])
        x, _ = scheduler.sampler.step(schedule, denoise, keys, x, (), t, s)
        count = np.round(times[i] * 1000 - 1) - stride + 1
        sigma = schedule.alpha_sigma(jnp.asarray(max(count, 1) / 1000, jnp.float32))[1]
        np.testing.assert_allclose(float(x.squeeze()), sigma, rtol=1e-4)


def test_pndm_follows_the_flow():
    """Of a Gaussian, which is known: with fifty steps closer than DDIM."""
    oracle, keys = Gaussian(ScaledLinear()), dj.sample_keys(jax.random.key(0), 0, 2)
    x = jax.random.normal(jax.random.key(1), (2, 2, 2, 1))
    times = jnp.asarray(TrainingSteps("leading", 1, last=1e-3).times(oracle.schedule, 50))
    truth = oracle.flow(x, times[0])
    errors = []
    for sampler in (IndexPNDM("eps"), Euler()):

        @jax.jit
        def walk(x, sampler=sampler):
            return sample(sampler, oracle.schedule, oracle.denoise, keys, x, times)[0]

        errors.append(float(jnp.abs(oracle.flow(walk(x), times[-1]) - truth).max()))
    assert errors[0] < 0.2 * errors[1], errors


@pytest.mark.parametrize(
    "process",
    [
        dj.Process(Linear(150)),
        dj.Process(ScaledLinear(beta_end=0.02), "v"),
        dj.Process(Cosine(), "x0", learned_variance=False),
        dj.Process(Linear(), learned_variance=True),
    ],
)
@pytest.mark.parametrize("limit", [None, 1.0])
def test_what_is_written_is_read_as_it_was(process, limit):
    scheduler = dj.scheduler_from_config(json.loads(json.dumps(scheduler_config(process, limit))))
    assert scheduler.process == process
    assert (scheduler.sampler, scheduler.limit) == (dj.samplers.DDIM(), limit)
    times = scheduler.spacing.times(process.schedule, 5)
    np.testing.assert_allclose(times, dj.spacings.Trailing().times(process.schedule, 5), atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "least"),
    [(Cosine(offset=0.1), -40.0), (Cosine(zero_terminal_snr=True), -16.64), (Sigmoid(), -40.0)],
)
def test_a_schedule_without_a_name_is_a_table(schedule, least):
    """What is left of the signal after each step; where it is none, what diffusers puts there."""
    read = dj.scheduler_from_config(scheduler_config(dj.Process(schedule, "v"))).process.schedule
    t = jnp.arange(1, 1001) / 1000
    np.testing.assert_allclose(read.log_snr(t), jnp.maximum(schedule.log_snr(t), least), atol=5e-3)


@pytest.mark.parametrize(
    ("process", "limit", "message"),
    [
        (dj.Process(Flow(), "velocity"), None, "no scheduler for schedule flow"),
        (dj.Process(Linear(), "score"), None, "no scheduler for target score"),
        (dj.Process(Linear(), time_input="log_snr"), None, "a network that is told log_snr"),
        (dj.Process(Linear(), consistent=True), None, "no scheduler for a consistency model"),
        (dj.Process(Linear(), "v", learned_variance=True), None, "a learnt variance with target v"),
        (dj.Process(Linear()), 2.0, "no scheduler for x0 within 2.0"),
    ],
)
def test_processes_that_diffusers_lacks(process, limit, message):
    with pytest.raises(dj.UserError, match=message):
        scheduler_config(process, limit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "LCMScheduler"}, "LCMScheduler is not supported: choose one of DDPMSched"),
        ({"_class_name": "TCDScheduler"}, "TCDScheduler is not supported"),
        ({"_class_name": None}, "it has no _class_name"),
        ({"_class_name": ["DDIMScheduler"]}, "it has no _class_name"),
        ({"beta_schedule": "sigmoid"}, 'beta_schedule="sigmoid" is not supported: choose "linear"'),
        ({"beta_start": "small"}, 'beta_start="small" is not supported: give float'),
        ({"beta_start": 0.5}, "choose 0 < beta_start <= beta_end < 1"),
        ({"steps_offset": 1.5}, "steps_offset=1.5 is not supported: give int"),
        ({"steps_offset": True}, "steps_offset=true is not supported: give int"),
        ({"steps_offset": -1}, "steps_offset=-1: choose 0 or more"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0: choose 1 to 1,000,000"),
        ({"num_train_timesteps": 10**12}, "choose 1 to 1,000,000"),
        ({"trained_betas": [0.1, 0.2]}, "2 betas for 1000 training steps"),
        ({"trained_betas": [0.1, 1.0], "num_train_timesteps": 2}, "beta 1 is 1.0: choose betas"),
        ({"trained_betas": "0.1"}, "trained_betas=.* is not supported: give"),
        ({"trained_betas": [0.1, "0.1"], "num_train_timesteps": 2}, "trained_betas=.* not supp"),
        ({"rescale_betas_zero_snr": True}, "target eps says nothing of the image at t = 1"),
        ({"clip_sample_range": 0.0}, "clip_sample_range=0.0: choose a number above 0"),
        ({"thresholding": True, "sample_max_value": 1.5}, "sample_max_value=1.5 is not supported"),
        ({"new_option": 3, "_diffusers_version": "9.1"},
         "DDIMScheduler has no option 'new_option', and the file is of diffusers 9.1: remove"),
        ({"new_option": 0}, "has no option 'new_option'"),
        ({"predict_epsilon": False}, "has no option 'predict_epsilon'"),
        ({"_class_name": "PNDMScheduler"}, "skip_prk_steps=false is not supported: only true is"),
        ({"_class_name": "PNDMScheduler", "timestep_spacing": "trailing"}, 'only "leading" is'),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, "choose .*learned_range"),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large", "steps_offset": 1},
         "diffusers adds noise to the finished image"),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"},
         'interpolation_type="log_linear" is not supported: only "linear" is'),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "only false is"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True,
          "use_exponential_sigmas": True}, "are both on: choose one"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "choose 1, 2, 3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
         r'algorithm_type="dpmsolver" is not supported: choose "dpmsolver\+\+"'),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++",
          "solver_order": 3}, "has the wrong sign: choose solver_order=2"),
        ({"_class_name": "DPMSolverMultistepScheduler", "euler_at_final": True,
          "final_sigmas_type": "sigma_min"}, "euler_at_final=true with final_sigmas_type"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True,
          "beta_schedule": "squaredcos_cap_v2"}, "with beta_schedule.* is not supported"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_type": "bh1"}, "bh1.* not supported"),
        ({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [0]},
         r"disable_corrector=\[0\] is not supported"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": 50.0},
         "lambda_min_clipped=50.0 is not supported"),
        ({"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "squaredcos_cap_v2",
          "lambda_min_clipped": -5.1, "timestep_spacing": "trailing"}, "-5.1 with timestep_spac"),
        ({"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True,
          "final_sigmas_type": "sigma_min"}, "use_karras_sigmas=true with final_sigmas_type"),
        ({"_class_name": "HeunDiscreteScheduler", "clip_sample": True, "clip_sample_range": -1.0},
         "clip_sample_range=-1.0: choose a number above 0"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0.0}, "choose shift above 0"),
    ],
)  # fmt: skip
def test_refused_by_name(options, message):
    with pytest.raises(dj.UserError, match=message) as caught:
        dj.scheduler_from_config({"_class_name": "DDIMScheduler", **options})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_option_that_is_off_and_that_no_class_has_is_passed_over():
    with pytest.warns(UserWarning, match="passing over option 'new_option', which is off"):
        assert of("DDIM", new_option=None) == of("DDIM")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), ("{", "is not JSON"), ("[]", "holds a list, not a JSON object")],
)
def test_files_that_hold_no_config(tmp_path, content, message):
    path = tmp_path / "scheduler_config.json"
    if content is not None:
        path.write_text(content)
    for given in (path, tmp_path):
        with pytest.raises(dj.UserError, match=message) as caught:
            dj.scheduler_from_config(given)
        assert str(path) in str(caught.value)


def test_numbers_of_steps_that_have_no_times():
    for scheduler, steps, message in (
        (of("DDIM", steps_offset=1), 1000, "begins at index 1000, and the last is 999: take fewer"),
        (of("DDPM", timestep_spacing="linspace"), 1001, "fewer different times"),
        (of("EulerDiscrete", use_karras_sigmas=True, sigma_max=1e4), 5, "lies beyond the schedule"),
        (of("UniPCMultistep", timestep_spacing="leading"), 1000, "fewer different times"),
    ):
        with pytest.raises(dj.UserError, match=message):
            scheduler.spacing.times(scheduler.process.schedule, steps)
