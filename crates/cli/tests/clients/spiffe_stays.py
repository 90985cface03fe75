"""PyPI's sources in one process that stays, while its test takes the server away.

Says `update SERIAL AUTHORITY` for each certificate; answers `held` and `jwt` on stdin; ends with stdin.
"""

import hashlib
import sys
import threading
import time

from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import JwtSource, JwtSvid, TrustDomain, X509Source

DOMAIN = TrustDomain("example.org")
PATIENCE = 50
lock = threading.Lock()


def say(*words):
    with lock:
        print(*words, flush=True)


def serial(context):
    return format(context.default_svid.leaf.serial_number, "x")


x509, jwt = X509Source(timeout_in_seconds=PATIENCE), JwtSource(timeout_in_seconds=PATIENCE)


def update():
    context = x509.get_x509_context()
    leaf = context.default_svid.leaf
    (authority,) = context.x509_bundle_set.get_bundle_for_trust_domain(DOMAIN).x509_authorities
    leaf.verify_directly_issued_by(authority)
    say("update", serial(context), hashlib.sha256(authority.public_bytes(Encoding.DER)).hexdigest())


def token():
    """A client's own connection comes back a moment after its server."""
    begun = time.monotonic()
    while True:
        try:
            svid = jwt.fetch_svid({"orders"}, timeout=5)
            bundle = jwt.get_bundle_for_trust_domain(DOMAIN)
            return JwtSvid.parse_and_validate(svid.token, bundle, {"orders"})
        except Exception:
            assert not jwt.is_closed(), "the source gave up"
            if time.monotonic() - begun > PATIENCE:
                raise
            time.sleep(0.2)


x509.subscribe_for_updates(update)
update()
for line in sys.stdin:
    if line.strip() == "held":
        say("held", serial(x509.get_x509_context()))
    else:
        say("jwt", token().spiffe_id)
x509.close()
jwt.close()
