"""The authority that the servers of the test's world are certified by, and who they are."""

import datetime
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

YEAR = datetime.timedelta(days=365)


class Authority:
    """Its key is kept beside its certificate, so that the same can be had again."""

    def __init__(self, folder, name="Authority of the test"):
        self.folder, self.path = folder, f"{folder}/authority.pem"
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        kept = f"{folder}/authority.key"
        if os.path.exists(kept):
            with open(kept, "rb") as file:
                self.key = serialization.load_pem_private_key(file.read(), None)
            return
        self.key = ec.generate_private_key(ec.SECP256R1())
        write(kept, private_pem(self.key))
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        made = self.build(self.name, self.key.public_key()).add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
        write(self.path, made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())

    def build(self, subject, key):
        now = datetime.datetime.now(datetime.timezone.utc)
        named = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        known = named.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        known = known.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        return known.serial_number(x509.random_serial_number()).not_valid_before(now - YEAR).not_valid_after(now + YEAR)

    def certify(self, name, hosts=()):
        """Certificate and key of a server (with hosts) or a client, as PEM texts; for a server also as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self.build(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), key.public_key())
        made = made.add_extension(x509.BasicConstraints(False, None), True)
        use = x509.ExtendedKeyUsageOID.SERVER_AUTH if hosts else x509.ExtendedKeyUsageOID.CLIENT_AUTH
        made = made.add_extension(x509.ExtendedKeyUsage([use]), False)
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
        certificate = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        private = private_pem(key)
        if hosts:
            write(f"{self.folder}/{name}.crt", certificate)
            write(f"{self.folder}/{name}.key", private)
        return certificate, private


def private_pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def write(path, text):
    with open(path, "w") as out:
        out.write(text)


if __name__ == "__main__":
    Authority(sys.argv[1])
