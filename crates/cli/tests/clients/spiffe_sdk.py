"""All that PyPI's spiffe can ask of a Workload API: SPIFFE-ID BUNDLE.PEM, and the endpoint in the environment.

Ends with an assertion where an answer is wrong; its last line is JSON for the test that called it.
"""

import json
import sys
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import JwtSource, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source

ID, BUNDLE = sys.argv[1:]
DOMAIN = TrustDomain("example.org")
PATIENCE = 30


def public(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def serial(certificate):
    """As the audit log names it: whole bytes, lower-case hex."""
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()


def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Exception as error:
        return str(error)
    raise AssertionError(f"{call} let {arguments} pass")


def check_svid(svid, authorities):
    assert svid.spiffe_id == SpiffeId(ID), svid.spiffe_id
    assert len(svid.cert_chain) == 1, "the authority is in the bundle, not in the chain"
    leaf = svid.leaf
    assert public(leaf.public_key()) == public(svid.private_key.public_key())
    issuers = [authority for authority in authorities if authority.subject == leaf.issuer]
    assert issuers, leaf.issuer
    leaf.verify_directly_issued_by(issuers[0])
    assert leaf.not_valid_before_utc.timestamp() < time.time() < leaf.not_valid_after_utc.timestamp()
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {use.dotted_string for use in usage} == {"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"}


def check_x509(client):
    written = x509.load_pem_x509_certificates(open(BUNDLE, "rb").read())
    bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(DOMAIN)
    assert bundle.x509_authorities == set(written), "the file and the API say the same"
    check_svid(client.fetch_x509_svid(), written)
    svids = client.fetch_x509_svids()
    assert len(svids) == 1, svids
    context = client.fetch_x509_context()
    check_svid(context.default_svid, context.x509_bundle_set.get_bundle_for_trust_domain(DOMAIN).x509_authorities)


def check_rotations(count):
    """A source goes on by itself; each certificate is new, with a new key."""
    seen, arrived = [], threading.Semaphore(0)

    with X509Source(timeout_in_seconds=PATIENCE) as source:

        def take():
            context = source.get_x509_context()
            seen.append(context.default_svid)
            authorities = context.x509_bundle_set.get_bundle_for_trust_domain(DOMAIN).x509_authorities
            check_svid(context.default_svid, authorities)
            arrived.release()

        take()
        source.subscribe_for_updates(take)
        for _ in range(count):
            assert arrived.acquire(timeout=PATIENCE), f"{len(seen)} certificates only"
        assert source.get_bundle_for_trust_domain(DOMAIN) is not None
        assert not source.is_closed()
    assert source.is_closed()
    serials = list(dict.fromkeys(serial(svid.leaf) for svid in seen))
    keys = {public(svid.private_key.public_key()) for svid in seen}
    assert len(keys) == len(serials), "one key for one certificate"
    return serials


def check_jwt(client):
    bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(DOMAIN)
    svid = client.fetch_jwt_svid({"orders"})
    assert svid.spiffe_id == SpiffeId(ID) and svid.audience == {"orders"}, svid.audience
    assert time.time() < svid.expiry
    assert JwtSvid.parse_and_validate(svid.token, bundle, {"orders"}).spiffe_id == SpiffeId(ID)
    refused(JwtSvid.parse_and_validate, svid.token, bundle, {"payments"})

    assert client.validate_jwt_svid(svid.token, "orders").spiffe_id == SpiffeId(ID)
    why = refused(client.validate_jwt_svid, svid.token, "payments")
    assert "INVALID_ARGUMENT" in why, why
    head, body, signature = svid.token.split(".")
    other = ("A" if signature[0] != "A" else "B") + signature[1:]
    why = refused(client.validate_jwt_svid, ".".join((head, body, other)), "orders")
    assert "INVALID_ARGUMENT" in why, why
    why = refused(client.fetch_jwt_svid, {"orders"}, SpiffeId("spiffe://example.org/somebody-else"))
    assert "PERMISSION_DENIED" in why, why

    both = client.fetch_jwt_svid({"orders", "payments"})
    assert both.audience == {"orders", "payments"}, both.audience
    assert [one.spiffe_id for one in client.fetch_jwt_svids({"orders"})] == [SpiffeId(ID)]

    with JwtSource(timeout_in_seconds=PATIENCE) as source:
        mine = source.fetch_svid({"ledger"}, subject=SpiffeId(ID))
        held = source.get_bundle_for_trust_domain(DOMAIN)
        assert JwtSvid.parse_and_validate(mine.token, held, {"ledger"}).spiffe_id == SpiffeId(ID)
        assert held.jwt_authorities.keys() == bundle.jwt_authorities.keys()


with WorkloadApiClient() as client:
    check_x509(client)
    check_jwt(client)
    serials = check_rotations(4)
print(json.dumps({"rotations": len(serials) - 1, "serials": serials}))
