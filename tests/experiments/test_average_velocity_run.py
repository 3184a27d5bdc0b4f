"""A network of average velocity through the command line, and codes through theirs."""

import pytest
from programs import RUN_FLAGS, TINY, check_refused, program

FLOW = ("--schedule=flow", "--target=velocity", "--sampler=flow_map", "--sample_steps=1")
SPANS = TINY.removesuffix(")") + ",spans=True)"
FLAGS = (
    *(flag for flag in RUN_FLAGS if flag != TINY), SPANS, *FLOW, "--num_classes=data",
    "--cond_drop=0.1", "--learned_guidance=1.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def mean_flow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flows") / "run"
    done = program("ddpm", *FLAGS, "--loss=mean_flow", "--steps=4", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_it_draws_in_one_step_and_as_a_flow(mean_flow, tmp_path):
    for sampler, steps in (("flow_map", 1), ("flow_heun", 3)):
        out = tmp_path / sampler
        done = program(
            "sample", f"--run={mean_flow}", f"--sampler={sampler}", f"--steps={steps}",
            "--num=4", f"--out={out}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (out / "grid.png").stat().st_size > 0


@pytest.mark.slow
def test_refused(mean_flow, trained, tmp_path):
    draw = ("--sampler=flow_map", "--steps=1", "--num=2", f"--out={tmp_path}/out")
    check_refused("mean_flow or shortcut", "sample", f"--run={trained}", *draw)
    guided = program("sample", f"--run={mean_flow}", *draw, "--guidance=2")
    assert guided.returncode == 1
    assert "leave guidance out" in guided.stderr
    assert len(guided.stderr.strip().splitlines()) == 1
    check_refused("--loss", "ddpm", *FLAGS, "--learned_guidance=1", f"--workdir={tmp_path}/a")
    plain = (*FLAGS, TINY, "--loss=mean_flow", "--sampler=flow_euler", f"--workdir={tmp_path}/b")
    check_refused("unet(spans=True)", "ddpm", *plain)


@pytest.mark.slow
def test_codes_are_learnt_and_drawn(tmp_path):
    stage = tmp_path / "stage"
    vq = (
        "--model=vq(down_block_types=('DownEncoderBlock2D','DownEncoderBlock2D'),"
        "up_block_types=('UpDecoderBlock2D','UpDecoderBlock2D'),block_out_channels=(8,8),"
        "latent_channels=4,num_vq_embeddings=8,norm_num_groups=4,mid_block_add_attention=False)"
    )
    smoke = ("--preset=smoke", "--dataset=embedded")
    done = program("vae", *smoke, vq, f"--workdir={stage}")
    assert done.returncode == 0, done.stderr
    net = (
        "--model=unet(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,"
        "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',),mid_block_type=None)"
    )
    run = tmp_path / "run"
    flags = (*smoke, net, f"--first_stage={stage}", "--num_classes=data")
    done = program("masked_diffusion", *flags, f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    assert (run / "samples" / "step_00000030.png").stat().st_size > 0
    check_refused("--first_stage is missing", "masked_diffusion", *smoke, net)
    check_refused("--num_classes=3", "masked_diffusion", *flags, "--num_classes=3")
