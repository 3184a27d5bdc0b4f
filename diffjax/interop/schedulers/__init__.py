"""diffusers' schedulers: what their options stand for here, each step of theirs by one of ours."""

from diffjax.interop.schedulers.config import scheduler_from_config
from diffjax.interop.schedulers.options import Scheduler
from diffjax.interop.schedulers.written import scheduler_config

__all__ = ["Scheduler", "scheduler_config", "scheduler_from_config"]
