//! `attesta fetch x509`: once, or for as long as the process lives.

use std::{path::PathBuf, process::ExitCode};

use attesta_spiffe::SpiffeId;
use attesta_wire::proto::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use clap::Args;
use serde_json::json;
use tonic::{Code, Status, Streaming};

use super::{
    Common, Patience, files, may_retry, pem, refused, render, request,
    svid::{self, Svid},
};
use crate::{
    args::{Global, Output},
    ask::{dial, endpoint::Endpoint},
    output::{Failure, emit, note, say},
};

/// What to fetch, and where to.
#[derive(Args)]
pub(crate) struct X509 {
    #[command(flatten)]
    common: Common,
    /// Write svid.pem, svid.key and bundle.pem into this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

/// How one stream came to its end.
enum End {
    /// All that was asked for is done.
    Done,
    /// It was closed without a word: connect again at once (C176).
    Closed,
    /// It failed.
    Failed { failure: Failure, code: Code },
}

impl X509 {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let endpoint = Endpoint::of(global)?;
        let mut patience = Patience::new(&self.common);
        loop {
            let mut fed = false;
            let failure = match self
                .stream(&endpoint, &mut patience, &mut fed, global.output)
                .await?
            {
                End::Done => return Ok(ExitCode::SUCCESS),
                End::Closed if fed => continue,
                End::Closed => {
                    Failure::unreachable("the agent closed the stream without an answer")
                }
                End::Failed { failure, code } => {
                    if code == Code::PermissionDenied && patience.served {
                        self.redact()?;
                    }
                    if !may_retry(code) {
                        return Err(failure.into());
                    }
                    failure
                }
            };
            patience.tell(&failure);
            if !patience.again().await {
                return Err(failure.into());
            }
        }
    }

    /// One connection, until its stream ends.
    async fn stream(
        &self,
        endpoint: &Endpoint,
        patience: &mut Patience,
        fed: &mut bool,
        output: Output,
    ) -> anyhow::Result<End> {
        let channel = match dial::workload(endpoint).await {
            Ok(channel) => channel,
            Err(failure) => {
                return Ok(End::Failed {
                    failure,
                    code: Code::Unavailable,
                });
            }
        };
        let mut client =
            SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(dial::MESSAGE);
        let clock = patience.clock.clone();
        let opening = async {
            let mut stream = client
                .fetch_x509svid(request(X509svidRequest {}))
                .await?
                .into_inner();
            let first = stream.message().await?;
            Ok::<_, Status>((stream, first))
        };
        let (mut stream, mut next): (Streaming<X509svidResponse>, _) =
            match clock.timeout(patience.left(), opening).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(status)) => return Ok(failed(&status)),
                Err(elapsed) => {
                    let failure =
                        Failure::unreachable(format!("no answer from the agent at {endpoint}"))
                            .with_cause(elapsed);
                    return Ok(End::Failed {
                        failure,
                        code: Code::DeadlineExceeded,
                    });
                }
            };
        while let Some(message) = next {
            match svid::read(message, clock.now()) {
                Ok(svids) => {
                    self.take(&svids, output)?;
                    patience.fed();
                    *fed = true;
                    if !self.common.watch {
                        return Ok(End::Done);
                    }
                }
                // C181: told, and thrown away.
                Err(why) => {
                    let failure =
                        Failure::failed("the agent's message is not usable").with_cause(why);
                    if !self.common.watch {
                        return Err(failure.into());
                    }
                    crate::output::report(&failure.into(), output);
                }
            }
            next = match stream.message().await {
                Ok(next) => next,
                Err(status) => return Ok(failed(&status)),
            };
        }
        Ok(End::Closed)
    }

    /// Each message is the full state: what is not in it is over (C177, C180).
    fn take(&self, svids: &[Svid], output: Output) -> anyhow::Result<()> {
        let wanted: Vec<&Svid> = svids
            .iter()
            .filter(|s| self.common.spiffe_id.as_ref().is_none_or(|id| id == s.id()))
            .collect();
        let Some(default) = wanted.first() else {
            let have: Vec<&str> = svids.iter().map(|s| s.id().as_str()).collect();
            let id = self
                .common
                .spiffe_id
                .as_ref()
                .map(SpiffeId::as_str)
                .unwrap_or_default();
            let failure = Failure::failed(format!("this process has no identity {id}"))
                .with_cause(format!("it has {}", have.join(", ")));
            if !self.common.watch {
                return Err(failure.into());
            }
            self.redact()?;
            crate::output::report(&failure.into(), output);
            return Ok(());
        };
        if let Some(directory) = &self.write {
            let chain: String = default
                .chain
                .iter()
                .map(|c| pem::encode("CERTIFICATE", c))
                .collect();
            let key = pem::secret("PRIVATE KEY", &default.key);
            files::write_pair(
                directory,
                chain.as_bytes(),
                key.as_bytes(),
                render::bundle(default).as_bytes(),
            )?;
        }
        match (output, &self.write) {
            (Output::Json, None) => emit(&render::x509_json(&wanted))?,
            (Output::Json, Some(directory)) => {
                let mut value = render::x509_json(&[default]);
                if let Some(map) = value.as_object_mut() {
                    map.insert("directory".to_owned(), json!(directory));
                }
                emit(&value)?;
            }
            (Output::Text, Some(directory)) => say(format!(
                "wrote {}: {} serial {} until {}",
                directory.display(),
                default.id(),
                default.verified.serial_hex(),
                default.verified.not_after()
            ))?,
            (Output::Text, None) => {
                let now = attesta_runtime::Clock::system().now();
                for svid in &wanted {
                    say(render::x509(svid, now))?;
                }
            }
        }
        Ok(())
    }

    /// The identity was taken away: whoever reads the files must stop using it (C188).
    fn redact(&self) -> anyhow::Result<()> {
        if let Some(directory) = &self.write
            && files::remove_pair(directory)?
        {
            note(format!(
                "the identity was taken away: removed svid.pem and svid.key from {}",
                directory.display()
            ));
        }
        Ok(())
    }
}

fn failed(status: &Status) -> End {
    End::Failed {
        failure: refused(status),
        code: status.code(),
    }
}
