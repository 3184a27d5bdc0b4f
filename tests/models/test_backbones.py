"""Every denoising network keeps the contract of a backbone; a new one is found by itself."""

import jax
import jax.numpy as jnp
import pytest

import diffjax.models
from diffjax import spec
from diffjax.models.backbone import Backbone
from diffjax.tasks.diffusion import Diffusion

FITTED = {"in_channels": 2, "out_channels": 2, "sample_size": 8}
EACH = {
    "course_unet": "course_unet(channels=(4,4,4),groups=(4,4),num_class_embeds=3)",
    "dit": "dit(num_attention_heads=2,attention_head_dim=4,num_layers=1,num_embeds_ada_norm=3)",
    "unet": "unet(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,mid_block_type=None,"
    "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',),num_class_embeds=3)",
    "upscaler": 'upscaler(factor=2,net="unet(in_channels=5,out_channels=2,block_out_channels=(8,),'
    "layers_per_block=1,norm_num_groups=4,mid_block_type=None,down_block_types=('DownBlock2D',),"
    "up_block_types=('UpBlock2D',))\")",
    "unet_condition": "unet_condition(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,"
    "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',),cross_attention_dim=8)",
}


def test_each_backbone_is_tried_here():
    names = spec.names(diffjax.models)
    found = {n for n in names if issubclass(spec.lookup(n, diffjax.models), Backbone)}
    assert set(EACH) == found


@pytest.mark.parametrize("name", EACH)
def test_contract(name):
    """Fitted to the data, and told any condition that it takes, it gives an image of float32."""
    model = spec.build(EACH[name], diffjax.models, FITTED)
    assert spec.build(spec.render(model), diffjax.models) == model
    condition = model.takes(drop=0.1)
    model = model.conditioned_on(condition)
    x, t, cond = jnp.ones((3, 8, 8, 2)), jnp.arange(3.0), condition.example(3)
    assert jax.tree.map(jnp.shape, condition.null(cond)) == jax.tree.map(jnp.shape, cond)
    init = model.init_with_output
    out, variables = jax.eval_shape(init, jax.random.key(0), x, t, cond)
    assert (out.shape, out.dtype) == (x.shape, jnp.float32)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("name", EACH)
def test_a_run_s_config_holds_it(name):
    model = spec.build(EACH[name], diffjax.models, FITTED)
    schedule = spec.build("cosine", diffjax.schedules)
    task = Diffusion(
        model=model, image_shape=(8, 8, 2), schedule=schedule, target="v",
        condition=model.takes(drop=0.1),
    )  # fmt: skip
    assert Diffusion.from_dict(task.to_dict()) == task
