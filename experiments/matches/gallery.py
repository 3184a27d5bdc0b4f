"""The page on which a reader tries a CLIP: match.html."""

import os

import numpy as np

from diffjax.data import Records
from diffjax.data.images import to_uint8
from diffjax.display.match_page import MatchPage, save_match_page
from experiments.matches.paired import TwoTowers, captions_of, encode_texts, parts


def write(path: str | os.PathLike[str], towers: TwoTowers, records: Records, most: int) -> None:
    """Writes the page of `most` records at equal distances, or of all, and of their captions.

    Raises UserError for records without captions, and OSError where it cannot be written.
    """
    count = min(most, len(records))
    # At equal distances: many sets are sorted by class.
    indices = (np.arange(count) * len(records) // max(count, 1)).tolist()
    images, captions, embeddings = [], [], []
    for rows in parts(records, indices):
        stack = np.stack([row["image"] for row in rows])
        images.append(to_uint8(stack))
        captions += captions_of(rows)
        embeddings.append(towers.images(stack))
    texts = list(dict.fromkeys(captions))
    page = MatchPage(
        title=f"What {towers.name} matches",
        subtitle=f"{count:,} of {len(records):,} pictures, {len(texts):,} captions",
        images=np.concatenate(images),
        captions=captions,
        texts=texts,
        image_embeddings=np.concatenate(embeddings).astype(np.float32),
        text_embeddings=encode_texts(towers, texts).astype(np.float32),
        logit_scale=float(towers.logit_scale),
    )
    save_match_page(path, page)
