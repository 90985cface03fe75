//! Files with mistakes, and what is said of them.

use attesta_authority::{Lifetimes, ring::Limits};

use super::*;

#[test]
fn every_mistake_at_once_with_its_line() {
    let source = "\
[server]
trust_domian = \"example.org\"
ca_ttl = \"1 day\"
listen = 8081
jwt_key_types = [\"ec-p256\", \"rsa-1024\"]

[agents]
sync_interval = \"5s\"

[agent]
sync_interval = \"0s\"
server_address = \"a:1\"
x509pop = true
";
    assert_eq!(
        Values::problems(source, Role::Run),
        [
            "2: unknown key `trust_domian`: did you mean `trust_domain`? (server.trust_domian)",
            "3: \"1 day\" is not allowed: it must be a length of time from \"1m\" to \"3650d\", such as \"90s\", \"10m\" or \"1h30m\" (server.ca_ttl)",
            "4: 8081 is not allowed: it must be an address to listen on, such as \"0.0.0.0:8081\" or \"[::1]:0\" (server.listen)",
            "5: [\"ec-p256\", \"rsa-1024\"] is not allowed: it must be a list of \"ec-p256\", \"ec-p384\", \"rsa-2048\" (server.jwt_key_types)",
            "7: unknown section `agents`: did you mean `agent`? (agents)",
            "11: \"0s\" is not allowed: it must be a length of time from \"1s\" to \"1h\", such as \"90s\", \"10m\" or \"1h30m\" (agent.sync_interval)",
            "12: means nothing to `attesta run`, only to `attesta agent run` (agent.server_address)",
            "13: boolean where a section is wanted: write [agent.x509pop] and its keys below (agent.x509pop)",
        ]
    );
}

#[test]
fn one_mistake_each() {
    for (source, role, expect) in [
        (
            "",
            Role::Server,
            "1: `attesta server run` needs trust_domain, by this key or by --trust-domain (server.trust_domain)",
        ),
        (
            "[server]\ntrust_domain = \"A\"",
            Role::Server,
            "2: \"A\" is not allowed (",
        ),
        (
            "[agent]\ntrust_domain='a'\nserver_address='a:1'\nlisten = 'x'",
            Role::Agent,
            "4: unknown key `listen` here: it belongs into [server] (agent.listen)",
        ),
        (
            "[agent]\ntrust_domain='a'\nserver_address='a:1'\ncolour = 1",
            Role::Agent,
            "4: unknown key `colour`: known here are admin_socket, bootstrap_bundle,",
        ),
        (
            "[agent]\ntrust_domain='a'\nserver_address='a:1'\ninsecure_bootstrap=true\nbootstrap_bundle='b'",
            Role::Agent,
            "4: insecure_bootstrap and bootstrap_bundle contradict",
        ),
        (
            "[agent]\ntrust_domain='a'\nserver_address='a:1'\n[agent.x509pop]\nprivate_key_path='k'",
            Role::Agent,
            "5: x509pop needs both",
        ),
        (
            "[server]\nca_ttl = '1h'",
            Role::Run,
            "2: 1h is longer than authorities of 1h allow: at most 10m, or a longer ca_ttl (server.ca_ttl)",
        ),
        (
            "[server]\nca_ttl = '10m'\ndefault_x509_svid_ttl = '10s'",
            Role::Run,
            "2: with authorities of 10m a new one is published 200s before it signs",
        ),
        (
            "[server]\nlongest_jwt_svid_ttl = '1m'",
            Role::Run,
            "2: the default of 5m is longer than the longest, 1m",
        ),
        (
            "[server]\ndefault_policies = false",
            Role::Run,
            "2: without the built-in policies",
        ),
        (
            "[server]\nadmin_ids = ['spiffe://a/b', 'x']",
            Role::Run,
            "2: ['spiffe://a/b', 'x'] is not allowed (\"x\": ",
        ),
        (
            "[server]\n\"a\\u001b[31m\" = 1",
            Role::Run,
            "2: unknown key `a\\u{1b}[31m`",
        ),
        (
            "[server]\nlisten = '127.0.0.1:0'\nlisten = '127.0.0.1:1'",
            Role::Run,
            "3: duplicate key",
        ),
        ("[server\nlisten = ", Role::Run, "1: "),
    ] {
        let problems = Values::problems(source, role);
        assert!(
            problems
                .first()
                .is_some_and(|first| first.starts_with(expect)),
            "{source}: {problems:#?}"
        );
        assert!(
            source.starts_with("[server\n") || problems.len() == 1,
            "{source}: {problems:#?}"
        );
    }
}

#[test]
fn a_good_file_becomes_the_structs_and_defaults_are_the_rooms() {
    let run = ServerConfig::new(&Values::good("", Role::Run));
    let (lifetimes, limits) = (Lifetimes::default(), Limits::default());
    assert_eq!(
        (run.ca_ttl, run.propagation),
        (lifetimes.authority, lifetimes.propagation)
    );
    assert_eq!(
        (run.default_x509, run.default_jwt),
        (limits.default_x509, limits.default_jwt)
    );
    assert_eq!(
        (run.longest_x509, run.longest_jwt),
        (limits.longest_x509, limits.longest_jwt)
    );
    assert!(run.default_policies && run.join_token && run.x509pop_ca_bundles.is_empty());

    let source = "\
[server]
trust_domain = \"acme.com\"
[server.x509pop]
ca_bundle_paths = [\"ca.pem\", \"/etc/ca.pem\"]
[agent]
trust_domain = \"acme.com\"
server_address = \"attesta.acme.com:8081\"
executable_limit = \"1GiB\"
x509pop.certificate_path = \"c.pem\"
x509pop.private_key_path = \"k.pem\"
";
    let server = ServerConfig::new(&Values::good(source, Role::Server));
    assert_eq!(
        server.x509pop_ca_bundles,
        [Path::new("/base/ca.pem"), Path::new("/etc/ca.pem")]
    );
    let agent = AgentConfig::new(&Values::good(source, Role::Agent));
    assert_eq!(
        (agent.executable_limit, agent.streams_per_uid),
        (1 << 30, 1024)
    );
    assert_eq!(agent.x509pop.unwrap().certificate, Path::new("/base/c.pem"));
    // The server's file may have the agent's section too.
    assert!(Values::problems(source, Role::Server).is_empty());
}
