"""CLIP's tokenizer, from the merges in the package or from a folder that transformers saved."""

import functools
import gzip
import importlib.resources
import json
import os
from pathlib import Path

from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.interop import tokenizer_files
from diffjax.interop.tokenizer_files import END, ROLES, START, Files, pair, read_folder
from diffjax.text.bpe import BPE, BYTE_SYMBOLS, END_OF_WORD
from diffjax.text.rules import Rule, Special, openai, transformers
from diffjax.text.tokenizer import Tokenizer

RULES = ("transformers", "openai")
MERGES = 49152 - 256 - 2  # the vocabulary takes so many of the merges in OpenAI's file


def load_tokenizer(
    folder: str | os.PathLike[str] | None = None, rules: str = "transformers"
) -> Tokenizer:
    """CLIP's tokenizer: a function from a list of texts to int32 token ids (N, 77).

    `folder` holds `tokenizer.json`, or `vocab.json` and `merges.txt`. Beside them,
    `tokenizer_config.json` and `special_tokens_map.json` say the special tokens, the padding token
    and the length. Without a folder the vocabulary is OpenAI's, and the padding the end token, or 0
    by OpenAI's rules. `rules` says how a text becomes words: "transformers" as in CLIPTokenizer,
    "openai" as in OpenAI's CLIP and open_clip, which needs ftfy. Raises UserError for other rules,
    and for what is missing, damaged or not CLIP's.
    """
    if rules not in RULES:
        raise UserError(f"rules={rules!r}: choose {' or '.join(RULES)}", "rules")
    files = shipped(rules) if folder is None else read_folder(Path(folder).expanduser())
    start, end, pad = (files.roles[role] for role in ("bos_token", "eos_token", "pad_token"))
    return Tokenizer(
        bpe=BPE(files.vocabulary, files.merges, files.roles["unk_token"]),
        split=_rule(rules, files, start, end),
        start=files.vocabulary[start],
        end=files.vocabulary[end],
        pad=files.vocabulary[pad],
        length=files.length,
    )


def save_tokenizer(tokenizer: Tokenizer, folder: str | os.PathLike[str]) -> None:
    """Writes `tokenizer` to `folder`, for transformers' CLIPTokenizer and for load_tokenizer.

    Both split a text by transformers' rules, whatever rules the tokenizer has. Raises UserError for
    a folder that cannot be written.
    """
    folder, bpe = Path(folder).expanduser(), tokenizer.bpe
    tokens = {index: token for token, index in bpe.vocabulary.items()}
    roles = {
        "bos_token": tokens[tokenizer.start], "eos_token": tokens[tokenizer.end],
        "unk_token": bpe.unknown, "pad_token": tokens[tokenizer.pad],
    }  # fmt: skip
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.length, **roles,
    }  # fmt: skip
    lines = ["#version: 0.2", *(" ".join(pair) for pair in bpe.merges)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(
            folder / tokenizer_files.VOCABULARY, json.dumps(bpe.vocabulary, ensure_ascii=False)
        )
        write_text(folder / tokenizer_files.MERGES, "\n".join(lines) + "\n")
        write_text(
            folder / tokenizer_files.CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        )
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error


def _rule(rules: str, files: Files, start: str, end: str) -> Rule:
    if rules == "transformers":
        return transformers(files.specials)
    return openai(*(Special(token, files.vocabulary[token]) for token in (start, end)))


@functools.lru_cache(maxsize=len(RULES))  # a tenth of a second; nothing changes it
def shipped(rules: str) -> Files:
    """OpenAI's vocabulary: bytes, bytes that end a word, merges, and the two special tokens.

    The padding token is that of `rules`.
    """
    file = importlib.resources.files("diffjax.third_party") / "clip_bpe"
    text = gzip.decompress((file / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    merges = [pair(line) for line in text.split("\n")[1 : MERGES + 1]]
    symbols = sorted(BYTE_SYMBOLS)
    ends = [symbol + END_OF_WORD for symbol in symbols]
    tokens = [*symbols, *ends, *map("".join, merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    roles = {role: token for role, token in ROLES.items() if token}
    if rules == "openai":
        roles["pad_token"] = tokens[0]
    specials = [Special(token, vocabulary[token]) for token in (START, END)]
    return Files(vocabulary, merges, specials, roles)
