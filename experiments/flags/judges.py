"""A classifier's run as the judge of another run's images."""

from diffjax import runs
from diffjax.errors import UserError
from diffjax.runs import Run
from diffjax.tasks.base import Task
from diffjax.tasks.classifier import Classification


def load_judge(folder: str, judged: Task) -> Run[Classification]:
    """The classifier in `folder`.

    Raises UserError for a classifier of other images, or of other classes where the run has some.
    """
    judge = runs.load(folder, Classification)
    if judged.image_shape != judge.task.image_shape:
        drawn, known = ("x".join(map(str, t.image_shape)) for t in (judged, judge.task))
        raise UserError(
            f"the run draws images of {drawn} and the judge knows {known}: "
            "train a judge with the run's --dataset and --image_size"
        )
    classes = getattr(getattr(judged, "condition", None), "classes", None)
    if classes not in (None, judge.task.classes):
        raise UserError(
            f"the run has {classes} classes and the judge {judge.task.classes}: "
            "train a judge with the run's --dataset"
        )
    return judge
