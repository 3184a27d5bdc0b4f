"""diffusers' schedulers: what their options stand for here, each step of theirs by one of ours."""

from diffjax.interop.schedulers.config import scheduler_from_config
from diffjax.interop.schedulers.options import Scheduler

__all__ = ["Scheduler", "scheduler_from_config"]
