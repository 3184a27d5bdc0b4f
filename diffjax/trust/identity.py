"""Who signs: a private key, and certificates that say whose it is."""

import contextlib
import dataclasses
import datetime
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from diffjax.errors import UserError
from diffjax.files import write_folder

if TYPE_CHECKING:
    from cryptography import x509

CHAIN, KEY, ROOT = "chain.pem", "key.pem", "root.pem"
VALID_DAYS = 365
ELLIPTIC = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclasses.dataclass(frozen=True)
class Identity:
    """chain: certificates in PEM, the signer's own first. key: its private key in PEM (PKCS 8).

    algorithm: C2PA's name of how the key signs.
    """

    chain: bytes
    key: bytes = dataclasses.field(repr=False)
    algorithm: str = "es256"

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Identity":
        """Of chain.pem and key.pem in a folder.

        Raises UserError where they are missing or unreadable, do not belong together, or are not
        valid today, and where the package cryptography is missing.
        """
        folder = pathlib.Path(folder).expanduser()
        with _explained(folder):
            from cryptography import x509
            from cryptography.hazmat.primitives.serialization import load_pem_private_key

            chain, key = (folder / CHAIN).read_bytes(), (folder / KEY).read_bytes()
            own = x509.load_pem_x509_certificates(chain)[0]
            private: Any = load_pem_private_key(key, password=None)
        if private.public_key() != own.public_key():
            raise UserError(
                f"{folder / KEY} is not the key of the first certificate in {folder / CHAIN}: "
                "put the signer's own certificate first"
            )
        now = datetime.datetime.now(datetime.UTC)
        if not own.not_valid_before_utc <= now <= own.not_valid_after_utc:
            raise UserError(
                f"the certificate in {folder / CHAIN} is valid from {own.not_valid_before_utc:%F} "
                f"to {own.not_valid_after_utc:%F}, and not today: ask for a new one"
            )
        return cls(chain, key, _algorithm(private, folder))


def make_ca(folder: str | os.PathLike[str], name: str = "diffjax trial") -> None:
    """Writes an authority for trying credentials out: root.pem, and a signer's chain.pem, key.pem.

    Who is given root.pem can tell that signer from others. The authority's own key is not kept, so
    that it vouches for nobody else. Raises UserError where the folder exists or cannot be written,
    and where the package cryptography is missing.
    """
    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        raise UserError(f"{folder} exists: choose another, so that no key is overwritten")
    with _explained(folder):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
        pem = serialization.Encoding.PEM
        root = _certificate(f"{name} root", keys[0], f"{name} root", keys[0])
        signer = _certificate(f"{name} signer", keys[1], f"{name} root", keys[0])
        private = keys[1].private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

        def fill(part: pathlib.Path) -> None:
            part.chmod(0o700)
            (part / ROOT).write_bytes(root.public_bytes(pem))
            (part / CHAIN).write_bytes(signer.public_bytes(pem) + root.public_bytes(pem))
            (part / KEY).touch(0o600)
            (part / KEY).write_bytes(private)

        write_folder(folder, fill)


def _certificate(subject: str, key: Any, issuer: str, issuer_key: Any) -> "x509.Certificate":
    """Of an authority where it vouches for itself, else of one who signs images."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def called(name: str) -> x509.Name:
        told = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        return x509.Name([x509.NameAttribute(each, name) for each in told])

    authority, now = key is issuer_key, datetime.datetime.now(datetime.UTC)
    uses = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    usage = x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **uses
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(called(subject))
        .issuer_name(called(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not authority:  # C2PA asks for one of a few purposes
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _algorithm(key: Any, folder: pathlib.Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case ec.EllipticCurvePrivateKey() if key.curve.name in ELLIPTIC:
            return ELLIPTIC[key.curve.name]
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
        case rsa.RSAPrivateKey():
            return "ps256"
    raise UserError(f"{folder / KEY} is of a kind that C2PA does not know: make another")


@contextlib.contextmanager
def _explained(folder: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong with files and keys into a UserError."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"keys need the package {error.name}: pip install 'diffjax[trust]'"
        ) from error
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}: give a folder of keys") from error
    except (ValueError, TypeError) as error:  # damaged, or with a password
        raise UserError(
            f"{folder}: {CHAIN} and {KEY} are not certificates and an open key in PEM: {error}"
        ) from error
