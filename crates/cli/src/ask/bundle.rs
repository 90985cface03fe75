//! `attesta bundle`: the public keys of the trust domain.
//!
//! Must not know how they are made or rotated.

use std::{path::PathBuf, process::ExitCode};

use attesta_spiffe::{Bundle, X509Authority};
use attesta_wire::{
    bundle,
    proto::spire::api::server::bundle::v1::{GetBundleRequest, bundle_client::BundleClient},
};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    dial::{self, answer},
    fetch::{files, pem},
};
use crate::{
    args::{Global, Output},
    output::{Failure, emit, note, raw},
};

/// `attesta bundle …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show the trust domain's bundle
    #[command(after_help = "Examples:\n  \
        attesta bundle show > bundle.pem\n  \
        attesta bundle show --format spiffe -o bundle.json")]
    Show(Show),
}

/// How to show it.
#[derive(Args)]
pub(crate) struct Show {
    /// The X.509 authorities as PEM, or the SPIFFE bundle document with the JWT keys too
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write it to this file, whole or not at all
    #[arg(short = 'o', value_name = "FILE")]
    file: Option<PathBuf>,
}

/// How a bundle is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// X.509 authorities, PEM.
    #[default]
    Pem,
    /// The SPIFFE bundle document, JSON.
    Spiffe,
}

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    let Command::Show(show) = command;
    let found = answer(
        BundleClient::new(dial::admin(global).await?)
            .get_bundle(GetBundleRequest { output_mask: None }),
    )
    .await?;
    let found = bundle::from_wire(&found)
        .map_err(|e| Failure::failed("the server's bundle is malformed").with_cause(e))?;
    let document = match show.format {
        Format::Pem => pem_of(&found).into_bytes(),
        Format::Spiffe => [found.to_json(), b"\n".to_vec()].concat(),
    };
    match (&show.file, global.output) {
        (Some(path), output) => {
            files::replace(path, &document, 0o644)?;
            match output {
                Output::Json => {
                    emit(&json!({ "trust_domain": found.trust_domain().as_str(), "file": path }))?
                }
                Output::Text => note(format!("wrote {}", path.display())),
            }
        }
        (None, Output::Text) => raw(&document)?,
        // The document is JSON already.
        (None, Output::Json) if show.format == Format::Spiffe => raw(&document)?,
        (None, Output::Json) => emit(&value(&found))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn pem_of(bundle: &Bundle) -> String {
    bundle
        .x509_authorities()
        .iter()
        .map(|a| pem::encode("CERTIFICATE", a.der()))
        .collect()
}

fn value(bundle: &Bundle) -> Value {
    let authority = |a: &X509Authority| {
        json!({
            "subject_key_id": a.subject_key_id().map(hex::encode),
            "not_before": a.not_before().to_string(),
            "expires_at": a.not_after().to_string(),
            "pem": pem::encode("CERTIFICATE", a.der()),
        })
    };
    json!({
        "trust_domain": bundle.trust_domain().as_str(),
        "sequence_number": bundle.sequence(),
        "refresh_hint": bundle.refresh_hint().map(|d| d.as_secs()),
        "x509_authorities": bundle.x509_authorities().iter().map(authority).collect::<Vec<_>>(),
        "jwt_authorities": bundle.jwt_keys().iter().map(|k| json!({
            "key_id": k.key_id(),
            "expires_at": k.expires_at().map(|t| t.to_string()),
        })).collect::<Vec<_>>(),
    })
}
