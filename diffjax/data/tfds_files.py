"""The files of a prepared TFDS set: found, checked, and opened without tensorflow."""

import contextlib
import difflib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diffjax.data import images
from diffjax.errors import UserError

PREPARE_AGAIN = "prepare it again"


def check_files(name: str, instructions: Sequence[Any]) -> None:
    """Raises UserError for a file that is not there, or holds not the records that it should."""

    def check(instruction: Any) -> None:
        path = os.fspath(instruction.filename)
        if fault := _fault(path, instruction.examples_in_shard):
            raise UserError(f"cannot read {name} ({path!r}: {fault}): {PREPARE_AGAIN}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, instructions))


def _fault(path: str, expected: int) -> str | None:
    """What is wrong with an ArrayRecord file, as its end says, which one cut short has lost."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not os.path.isfile(path):
        return "no such file"
    reader = ArrayRecordReader(path)
    count = reader.num_records()
    try:
        reader.close()  # only now does it raise what went wrong above
    except RuntimeError as error:
        return images.reason(error)
    return None if count == expected else f"{count} records in place of {expected}"


def builder_of(name: str, where: pathlib.Path) -> Any:
    """The builder of a prepared set. Raises UserError that says what is there if it is not."""
    from tensorflow_datasets import features as kinds
    from tensorflow_datasets.core import naming, read_only_builder, registered

    try:
        plain, _ = naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise _missing(name, where) from error
    try:
        _check_feature_classes(where / plain.name)
        # tfds.builder would go on to the set's own code, which needs tensorflow.
        builder = read_only_builder.builder_from_files(name, data_dir=where)
        if not isinstance(builder.info.features, kinds.FeaturesDict):
            raise ValueError("no dictionary of features")
    except UserError:
        raise
    except registered.DatasetNotFoundError as error:
        raise _missing(name, where) from error
    except Exception as error:  # damaged JSON, or JSON of something else: of many types
        raise UserError(
            f"cannot read dataset_info.json and features.json of {name} in "
            f"{str(where / plain.name)!r} ({images.reason(error)}): {PREPARE_AGAIN}"
        ) from error
    return builder


def _check_feature_classes(folder: pathlib.Path) -> None:
    """Raises UserError where a features.json would have TFDS import a module of its choice."""

    def check(node: dict[str, Any]) -> None:
        for key in ("pythonClassName", "python_class_name", "type"):
            kind = str(node.get(key, ""))
            if "." in kind and not kind.startswith("tensorflow_datasets."):
                raise UserError(
                    f"{str(path)!r} has features of {kind!r}: only those of TFDS itself are read; "
                    f"{PREPARE_AGAIN} with these"
                )
        if isinstance(node.get("content"), str):  # old files hold JSON in JSON
            scan(node["content"])

    def scan(text: str | bytes) -> None:
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):  # TFDS says it better
            json.loads(text, object_hook=check)

    for path in folder.rglob("features.json"):
        scan(path.read_bytes())


def _missing(name: str, where: pathlib.Path) -> UserError:
    # name/version or name/config/version
    infos = [*where.glob("*/*/dataset_info.json"), *where.glob("*/*/*/dataset_info.json")]
    parts = sorted(info.relative_to(where).parts[:-1] for info in infos)
    plain = re.split("[:/]", name.lower())[0]
    close = difflib.get_close_matches(plain, {part[0] for part in parts}, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    there = ", ".join(f"{'/'.join(part[:-1])}:{part[-1]}" for part in parts)
    return UserError(
        f"no data set {name!r} in {str(where)!r}{hint}; prepared there: {there or 'none'}; "
        f"give another data_dir, or {how_to_prepare(name, where)}",
        option="data_dir",
    )


def how_to_prepare(name: str, where: pathlib.Path) -> str:
    return (
        "prepare it with tensorflow: pip install tensorflow && "
        f"tfds build {name} --file_format=array_record --data_dir={where}"
    )
