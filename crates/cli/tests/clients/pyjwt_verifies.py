"""PyJWT, which knows nothing of SPIFFE, with the keys of a SPIFFE bundle document. Its argument is the case, as JSON."""

import json
import sys

import jwt

case = json.loads(sys.argv[1])
keys = [key for key in case["bundle"]["keys"] if key["use"] == "jwt-svid"]
assert keys and all(key["kid"] for key in keys), case["bundle"]
token = case["token"]
header = jwt.get_unverified_header(token)
assert header["alg"] == case["algorithm"] and header["typ"] in ("JWT", "JOSE"), header
key = jwt.PyJWKSet.from_dict({"keys": keys})[header["kid"]]


def verify(token, audience):
    return jwt.decode(
        token,
        key,
        algorithms=[case["algorithm"]],
        audience=audience,
        options={"require": ["aud", "exp", "iat", "sub", "jti"]},
    )


claims = verify(token, case["audience"])
assert claims["sub"] == case["subject"] and claims["jti"] == case["jti"], claims
head, body, signature = token.split(".")
swapped = ("A" if signature[0] != "A" else "B") + signature[1:]
for what, audience, error in (
    (token, "another", jwt.InvalidAudienceError),
    (".".join((head, body, swapped)), case["audience"], jwt.InvalidSignatureError),
):
    try:
        verify(what, audience)
    except error:
        continue
    raise AssertionError(f"{error} did not come")
