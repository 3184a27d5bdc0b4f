"""A small example of every data set, and the real ones where there are any."""

import os
import pathlib

import pytest
from written_data import (
    write_captioned,
    write_folder,
    write_mnist,
    write_parquet,
    write_tfds,
    write_things,
    write_webdataset,
)


@pytest.fixture(scope="session")
def specs(tmp_path_factory):
    """A spec for each data set, of files just written. A new data set adds its line here."""
    root = tmp_path_factory.mktemp("data")
    return {
        "captioned_folder": f"captioned_folder(path={str(write_captioned(root / 'texts'))!r})",
        "captions": "captions(style='fluent')",
        "composites": f"composites(of=\"idx(path='{write_things(root / 'things')}')\")",
        "embedded": "embedded",
        "everything": f"everything(of=\"idx(path='{write_mnist(root / 'both')}')\")",
        "folder": f"folder(path={str(write_folder(root / 'folder'))!r})",
        "idx": f"idx(path={str(write_mnist(root / 'idx'))!r})",
        "parquet": f"parquet(path={str(write_parquet(root / 'parquet'))!r})",
        "webdataset": f"webdataset(path={str(write_webdataset(root / 'tars'))!r})",
        "tfds": f"tfds(name='tiny', data_dir={str(write_tfds(root / 'tfds'))!r})",
    }


@pytest.fixture
def real_data():
    """The folder of prepared data sets that this machine may have."""
    folder = os.environ.get("DIFFJAX_DATA_DIR")
    if not folder:
        pytest.skip("DIFFJAX_DATA_DIR names no folder with tfds/ and mnist_idx/")
    return pathlib.Path(folder)
