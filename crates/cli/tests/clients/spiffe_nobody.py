"""PyPI's spiffe in a process for which there is no entry: refused, by the code that SPIFFE asks for."""

from spiffe import WorkloadApiClient, X509Source


def refusal(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Exception as error:
        return str(error)
    raise AssertionError(f"{call} gave something")


with WorkloadApiClient() as client:
    for call, arguments in (
        (client.fetch_x509_svid, ()),
        (client.fetch_x509_bundles, ()),
        (client.fetch_jwt_svid, ({"orders"},)),
        (client.fetch_jwt_bundles, ()),
    ):
        why = refusal(call, *arguments)
        assert "PERMISSION_DENIED" in why, (call, why)
    # The source goes on asking, as an entry may come.
    why = refusal(X509Source, client, timeout_in_seconds=1)
    assert "Timeout" in why, why
