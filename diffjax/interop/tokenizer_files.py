"""The files of a tokenizer as transformers saves them, in the layouts of 2021 and of today."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffjax.errors import UserError, listed
from diffjax.interop.json_files import read_json, read_text
from diffjax.text.rules import Special

WHOLE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
CONFIG, SPECIALS, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
START, END = "<|startoftext|>", "<|endoftext|>"
# What special tokens are for, in the order in which transformers adds them, and CLIP's token.
ROLES = {
    "bos_token": START,
    "eos_token": END,
    "unk_token": END,
    "sep_token": None,
    "pad_token": END,
    "cls_token": None,
    "mask_token": None,
}
LENGTH, LONGEST = 77, 2**16
NO_LENGTH = 10**20  # a model_max_length from here on stands for none
MOST_IDS = 2**31  # int32

Vocabulary = dict[str, int]
Merges = list[tuple[str, str]]


class Files(NamedTuple):
    """What a tokenizer is made of. `roles` has a token for each of bos, eos, unk and pad."""

    vocabulary: Vocabulary
    merges: Merges
    specials: list[Special]
    roles: dict[str, str]
    length: int = LENGTH


def read_folder(folder: Path) -> Files:
    """What a folder's files say. Raises UserError for what is missing, damaged or not CLIP's."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    config = _read_optional(folder / CONFIG)
    _check_class(folder / CONFIG, config)
    vocabulary, merges, inside = _read_bpe(folder)
    if "added_tokens_decoder" in config:
        added = _numbered(folder / CONFIG, config["added_tokens_decoder"])
    else:
        config |= _read_optional(folder / SPECIALS)
        added = _outside(folder / ADDED, config) | inside
    vocabulary = {token.content: token.id for token in added.values()} | vocabulary
    folded = {added[index].content: added[index].folded for index in sorted(added)}
    roles = _add_named(folder, config, folded)
    missing = [ascii(token) for token in folded if token not in vocabulary]
    if missing:
        raise UserError(f"{folder}: its vocabulary has no special token {listed(missing)}")
    specials = [Special(token, vocabulary[token], after) for token, after in folded.items()]
    return Files(vocabulary, merges, specials, roles, _length(folder / CONFIG, config))


def pair(line: str) -> tuple[str, str]:
    """The two symbols of a line of merges. Raises ValueError for another number."""
    left, right = line.split(" ")
    return left, right


def _check_class(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("tokenizer_class")
    if kind is not None and not str(kind).startswith("CLIPTokenizer"):
        raise UserError(f"{path} is of a {kind!r}, not a CLIPTokenizer")
    for option in ("padding_side", "truncation_side"):
        if config.get(option, "right") != "right":
            raise UserError(f"{path}: {option}={config[option]!r} is not supported, only 'right'")


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _read_bpe(folder: Path) -> tuple[Vocabulary, Merges, dict[int, Special]]:
    """The vocabulary, the merges, and the added tokens of tokenizer.json by their ids."""
    whole = folder / WHOLE
    if whole.is_file():
        content = read_json(whole)
        model: Any = content.get("model")
        if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
            raise UserError(f"{whole}: its model is not of the type BPE")
        vocabulary = _checked_vocabulary(whole, model.get("vocab"))
        merges = _checked_merges(whole, model.get("merges"), vocabulary)
        return vocabulary, merges, _listed(whole, content.get("added_tokens"))
    for name in (VOCABULARY, MERGES):
        if not (folder / name).is_file():
            _refuse_incomplete(folder, name)
    vocabulary = _checked_vocabulary(folder / VOCABULARY, read_json(folder / VOCABULARY))
    path = folder / MERGES
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    lines = [line for line in lines if line and not line.startswith("#version")]
    return vocabulary, _checked_merges(path, lines, vocabulary), {}


def _refuse_incomplete(folder: Path, name: str) -> None:
    if (folder / "tokenizer").is_dir():
        raise UserError(f"{folder} is a whole pipeline: load {folder / 'tokenizer'}")
    raise UserError(f"{folder} has neither {WHOLE} nor {name}: download it again")


def _checked_vocabulary(path: Path, value: object) -> Vocabulary:
    if not isinstance(value, dict) or not all(_is_id(index) for index in value.values()):
        raise UserError(f"{path}: its vocabulary must be an object from tokens to ids")
    return dict(value)


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST_IDS


def _checked_merges(path: Path, value: object, vocabulary: Vocabulary) -> Merges:
    """Pairs whose parts and whole are in the vocabulary; older releases join a pair by a space."""
    if not isinstance(value, list):
        raise UserError(f"{path}: its merges must be a list")
    merges = []
    for number, entry in enumerate(value, 1):
        try:
            left, right = pair(entry) if isinstance(entry, str) else entry
            known = left in vocabulary and right in vocabulary and left + right in vocabulary
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: merge {number} is {_short(entry)}, not two tokens") from error
        if not known:
            raise UserError(f"{path}: merge {number}, {_short(entry)}, is not in the vocabulary")
        merges.append((left, right))
    return merges


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _listed(path: Path, entries: object) -> dict[int, Special]:
    """The added tokens of tokenizer.json."""
    if not isinstance(entries, list | None) or not all(isinstance(e, dict) for e in entries or []):
        raise UserError(f"{path}: its added_tokens must be a list of objects")
    found = [_special(path, entry.get("id"), entry) for entry in entries or []]
    return {token.id: token for token in found}


def _numbered(path: Path, entries: object) -> dict[int, Special]:
    """The added tokens of tokenizer_config.json, by their ids as text."""
    if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
        raise UserError(f"{path}: its added_tokens_decoder must be an object from ids to tokens")
    found = [_special(path, int(key[:20]), entry) for key, entry in entries.items()]
    return {token.id: token for token in found}


def _outside(path: Path, config: Mapping[str, Any]) -> dict[int, Special]:
    """The tokens of added_tokens.json, which says their ids alone."""
    named = {_token(path, config[role])[0] for role in ROLES if config.get(role)}
    found = [
        _special(path, index, {"content": token, "normalized": token not in named})
        for token, index in _read_optional(path).items()
    ]
    return {token.id: token for token in found}


def _special(path: Path, index: Any, value: object) -> Special:
    if not _is_id(index):
        raise UserError(f"{path}: the id of an added token is {_short(index)}")
    content, folded = _token(path, value)
    return Special(content, int(index), folded)


def _token(path: Path, value: object) -> tuple[str, bool]:
    """A special token and whether it is looked for after normalisation."""
    entry: dict[str, Any] = value if isinstance(value, dict) else {"content": value}
    content = entry.get("content")
    if not isinstance(content, str) or not content:
        raise UserError(f"{path}: {_short(value)} is no special token")
    for option in ("lstrip", "rstrip", "single_word"):
        if entry.get(option):
            raise UserError(f"{path}: {option} of the token {content!a} is not supported")
    return content, bool(entry.get("normalized", not entry.get("special", True)))


def _add_named(folder: Path, config: Mapping[str, Any], folded: dict[str, bool]) -> dict[str, str]:
    """Adds to `folded` the tokens that the config names; returns them by what they are for.

    As in transformers, the last to name a token says whether it is folded, where no list has.
    """
    settled = set(folded)
    values = {role: config.get(role) or token for role, token in ROLES.items()}
    more = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    roles = {}
    for role, value in [*values.items(), *((None, extra) for extra in more)]:
        if value is None:
            continue
        content, after = _token(folder / CONFIG, value)
        if role is not None:
            roles[role] = content
        if content not in settled:
            folded[content] = after
    return roles


def _length(path: Path, config: Mapping[str, Any]) -> int:
    length = config.get("model_max_length")
    if length is None or (isinstance(length, int | float) and length >= NO_LENGTH):
        return LENGTH
    if type(length) is not int or not 2 <= length <= LONGEST:
        raise UserError(f"{path}: model_max_length is {_short(length)}, not 2 to {LONGEST}")
    return length
