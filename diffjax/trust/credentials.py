"""Content Credentials: a signed manifest in an image, of what made it (C2PA 2.2).

Signing and verifying are c2pa-python's, of the extra `trust`. Nothing here uses the network.
"""

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from diffjax.display.marks import SOURCES, Drawn, software
from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.trust.identity import Identity

if TYPE_CHECKING:
    import c2pa

State = Literal["trusted", "valid", "unsigned", "tampered"]
GENERATION = "diffjax.generation"  # the assertion that holds what a model made an image with
OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
FORMATS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
TRACE = b"urn:c2pa:"  # stands several times in each manifest, so that one change leaves others


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What an image's credentials are worth.

    state: `trusted` is signed by someone whom the trust anchors vouch for, `valid` by someone
    unknown; both are unchanged since. `unsigned` has no credentials, and `tampered` has some that
    are not of this image as it is. problems: C2PA's codes of what failed. manifest: as it stands
    there, {} where there is none.
    """

    state: State
    problems: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def generation(self) -> Mapping[str, Any]:
        """What the image was made with, as the one who signed it says; {} where nothing is said."""
        for assertion in self.manifest.get("assertions", ()):
            if assertion.get("label") == GENERATION:
                told: Mapping[str, Any] = assertion.get("data", {})
                return told
        return {}


def sign(
    path: str | os.PathLike[str],
    identity: Identity,
    generation: Mapping[str, Any],
    drawn: Drawn = "all",
) -> None:
    """Puts a signed manifest into a PNG, JPEG or WebP; pixels stay as they are.

    generation: what the image was made with, as JSON can hold it. drawn: how much of it a model has
    drawn. Raises UserError for a file of another kind, and where c2pa-python is missing or refuses
    the identity.
    """
    library, path = _c2pa(), pathlib.Path(path)
    kind = _format(path)
    created = {"action": "c2pa.created", "softwareAgent": {"name": software()}}
    if drawn in SOURCES:
        created["digitalSourceType"] = SOURCES[drawn]
    manifest = {
        "title": path.name,
        "claim_generator_info": [{"name": "diffjax"}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": GENERATION, "data": dict(generation)},
        ],
    }
    info = library.C2paSignerInfo(
        alg=identity.algorithm.encode(),
        sign_cert=identity.chain,
        private_key=identity.key,
        ta_url=None,
    )
    signed = io.BytesIO()
    context = library.Context.from_dict(
        {"verify": OFFLINE, "builder": {"thumbnail": {"enabled": False}}}
    )
    try:
        with (
            context,
            library.Signer.from_info(info) as signer,
            library.Builder.from_json(json.dumps(manifest), context) as builder,
            path.open("rb") as image,
        ):
            builder.sign(signer, kind, image, signed)
    except library.C2paError as error:
        raise UserError(f"{path} cannot be signed: {error}") from error
    write_whole(path, lambda part: part.write_bytes(signed.getvalue()))


def verify(path: str | os.PathLike[str], trust: str | os.PathLike[str] | None = None) -> Verdict:
    """What the credentials in an image are worth.

    trust: a file of certificates in PEM whose word counts. A change of any byte of the image is
    found. In the manifest, bytes that fill or frame it may change: what it says may not. Raises
    UserError for a file that cannot be read or is of another kind, for anchors that are none, and
    where c2pa-python is missing.
    """
    library, path = _c2pa(), pathlib.Path(path)
    kind = _format(path)
    settings: dict[str, Any] = {"verify": {**OFFLINE, "verify_trust": True}}
    if trust is not None:
        settings["trust"] = {"trust_anchors": _anchors(trust)}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    with library.Context.from_dict(settings) as context:
        try:
            with library.Reader(kind, io.BytesIO(data), context=context) as reader:
                return _verdict(reader)
        except library.C2paError as error:
            if TRACE in data:
                return Verdict("tampered", (str(error).partition(":")[0],))
            if "ManifestNotFound" in str(error):
                return Verdict("unsigned")
            raise UserError(f"{path} cannot be read as an image: {error}") from error


def _verdict(reader: "c2pa.Reader") -> Verdict:
    try:
        manifest = reader.get_active_manifest() or {}
    except KeyError:  # its name is no longer that which the store gives
        manifest = {}
    results = (reader.get_validation_results() or {}).get("activeManifest", {})
    failed = tuple(str(each["code"]) for each in results.get("failure", ()))
    match reader.get_validation_state():
        case "Trusted":
            return Verdict("trusted", failed, manifest)
        case "Valid":
            return Verdict("valid", failed, manifest)
    return Verdict("tampered", failed, manifest)


def _format(path: pathlib.Path) -> str:
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path} is of no kind that holds credentials: {', '.join(FORMATS)} are")
    return kind


def _anchors(path: str | os.PathLike[str]) -> str:
    try:
        text = pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the trust anchors {path}: {error}", option="trust") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UserError(f"{path} holds no certificate in PEM", option="trust")
    return text


def _c2pa() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise UserError(
            f"credentials need the package {error.name}: pip install 'diffjax[trust]'"
        ) from error
    return c2pa
