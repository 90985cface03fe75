//! What a serving process says once it is ready: what is where, and what to paste next.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use attesta_spiffe::{SpiffeId, TrustDomain};
use serde_json::{Value, json};

use crate::{args::Output, config::Role, output};

/// See the module. What a role does not have is none.
pub(super) struct Greeting<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) node: Option<SpiffeId>,
    pub(super) workload_api: Option<PathBuf>,
    pub(super) admin: Option<PathBuf>,
    pub(super) server: Option<SocketAddr>,
    pub(super) bundle: Option<PathBuf>,
    pub(super) dir: &'a Path,
    /// Whether commands find the sockets without being told.
    pub(super) is_default: bool,
}

impl Greeting<'_> {
    /// On stdout, at most ten lines or exactly one of JSON. Nobody reading is no reason to stop.
    pub(super) fn print(&self, output: Output, role: Role) {
        let said = match output {
            Output::Json => output::emit(&self.json()),
            Output::Text => output::say(self.lines(role).join("\n")),
        };
        if let Err(e) = said {
            tracing::debug!(error = %e, "nobody reads stdout");
        }
    }

    fn json(&self) -> Value {
        let unix =
            |path: &Option<PathBuf>| path.as_ref().map(|path| format!("unix:{}", path.display()));
        json!({
            "trust_domain": self.trust_domain.as_str(),
            "node": self.node.as_ref().map(SpiffeId::as_str),
            "workload_api": unix(&self.workload_api),
            "admin": unix(&self.admin),
            "server": self.server.map(|address| address.to_string()),
            "issuer": null,
            "bundle": self.bundle.as_ref().map(|path| path.display().to_string()),
        })
    }

    fn lines(&self, role: Role) -> Vec<String> {
        let mut lines = vec![format!(
            "Attesta is ready: trust domain {}",
            self.trust_domain
        )];
        let mut line = |name: &str, value: Option<String>| {
            lines.extend(value.map(|value| format!("  {name:<13}{value}")))
        };
        let unix =
            |path: &Option<PathBuf>| path.as_ref().map(|path| format!("unix:{}", path.display()));
        line("node", self.node.as_ref().map(ToString::to_string));
        line("workload API", unix(&self.workload_api));
        line("admin", unix(&self.admin));
        line("server", self.server.map(|address| address.to_string()));
        line(
            "bundle",
            self.bundle.as_ref().map(|path| path.display().to_string()),
        );
        if role != Role::Agent {
            lines.push("Next, in another shell:".to_owned());
            if !self.is_default {
                lines.push(format!("  export ATTESTA_DATA_DIR={}", quoted(self.dir)));
            }
        }
        match role {
            Role::Run => {
                let uid = rustix::process::geteuid().as_raw();
                lines.push(format!("  attesta entry create --spiffe-id spiffe://{}/hello --selector unix:uid:{uid} && attesta fetch x509", self.trust_domain));
            }
            Role::Server => lines.push("  attesta token generate".to_owned()),
            Role::Agent => {}
        }
        lines
    }
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%,:=".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_lines_and_all_the_keys() {
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        let greeting = Greeting {
            trust_domain: &trust_domain,
            node: Some(SpiffeId::parse("spiffe://example.org/spire/agent/local/node").unwrap()),
            workload_api: Some("/d/workload.sock".into()),
            admin: Some("/d/admin.sock".into()),
            server: Some(SocketAddr::from(([127, 0, 0, 1], 4000))),
            bundle: Some("/d/bundle.pem".into()),
            dir: Path::new("/d d"),
            is_default: false,
        };
        let lines = greeting.lines(Role::Run);
        assert!(lines.len() <= 10, "{lines:#?}");
        assert!(
            lines
                .iter()
                .any(|line| line == "  export ATTESTA_DATA_DIR='/d d'"),
            "{lines:#?}"
        );
        let json = greeting.json();
        assert_eq!(json["node"], "spiffe://example.org/spire/agent/local/node");
        assert_eq!(json["workload_api"], "unix:/d/workload.sock");
        assert_eq!(json["server"], "127.0.0.1:4000");
        assert!(json["issuer"].is_null() && json.as_object().unwrap().len() == 7);
    }
}
