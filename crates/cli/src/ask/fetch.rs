//! `attesta fetch`: this process's own identity, from the Workload API.
//!
//! A client like any other: what the SPIFFE Workload API asks of clients is done here (C162, C163, C170, C171, C176,
//! C180, C181, C185, C188), and nothing is trusted that does not verify.

pub(super) mod files;
mod jwt;
pub(super) mod pem;
mod render;
mod svid;
mod x509;

use std::{process::ExitCode, time::Duration};

use attesta_runtime::Clock;
use attesta_spiffe::SpiffeId;
use clap::{Args, Subcommand};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
};

use super::{dial, values};
use crate::{
    args::Global,
    output::{Failure, note, shown},
};

/// The first wait after a refusal or a broken connection; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(15);

/// `attesta fetch …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fetch X.509-SVIDs
    ///
    /// Prints what they are; the private key leaves only with --write.
    #[command(after_help = "Examples:\n  \
        attesta fetch x509\n  \
        attesta fetch x509 --write /run/payments/tls --watch\n\n\
        --write makes DIR (mode 0700) with svid.pem, svid.key (mode 0600) and bundle.pem, all of one\n\
        moment: the directory is exchanged as a whole where it holds nothing else, else the files are\n\
        replaced one by one, the key before the certificate. With --watch, an identity that is taken\n\
        away takes svid.pem and svid.key with it.")]
    X509(x509::X509),
    /// Fetch a JWT-SVID
    #[command(after_help = "Example:\n  attesta fetch jwt --audience orders --output json")]
    Jwt(jwt::Jwt),
}

/// What both have.
#[derive(Args)]
pub(crate) struct Common {
    /// Only this identity
    #[arg(long, value_name = "SPIFFE_ID", value_parser = SpiffeId::parse)]
    spiffe_id: Option<SpiffeId>,
    /// Go on: print, or write, whenever it is renewed or changed
    #[arg(long)]
    watch: bool,
    /// How long to go on asking for the first answer; without it one refusal is the end
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
}

/// Runs the command.
pub(super) async fn run(command: Command, global: &Global) -> anyhow::Result<ExitCode> {
    match command {
        Command::X509(x509) => x509.run(global).await,
        Command::Jwt(jwt) => jwt.run(global).await,
    }
}

/// A request with the header that every call to the Workload API carries (C162).
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(
        "workload.spiffe.io",
        MetadataValue::<Ascii>::from_static("true"),
    );
    request
}

/// Whether asking again may help: not where the request itself is wrong (C163), nor where the call is not served.
fn may_retry(code: Code) -> bool {
    !matches!(code, Code::InvalidArgument | Code::Unimplemented)
}

/// What a refusal of the Workload API means.
fn refused(status: &Status) -> Failure {
    let failure = dial::refused(status);
    if status.code() == Code::PermissionDenied {
        return failure.with_hint(
            "no entry fits what this process is; an administrator sees more with: attesta explain PID",
        );
    }
    failure
}

/// How long to go on asking.
struct Patience {
    clock: Clock,
    /// On the clock's boot time; nothing where it has no end.
    until: Option<Duration>,
    watch: bool,
    wait: Duration,
    /// Whether there was an answer already.
    served: bool,
    /// What was said last of a failure: the same is not said again.
    said: String,
}

impl Patience {
    fn new(common: &Common) -> Self {
        let clock = Clock::system();
        let until = common.timeout.map(|t| clock.boot().saturating_add(t));
        Self {
            clock,
            until,
            watch: common.watch,
            wait: FIRST,
            served: false,
            said: String::new(),
        }
    }

    /// An answer came.
    fn fed(&mut self) {
        self.served = true;
        self.wait = FIRST;
        self.said.clear();
    }

    /// Tells of a failure after which it goes on.
    fn tell(&mut self, failure: &Failure) {
        let words = failure.to_string();
        if self.served && self.said != words {
            note(format!("{}; asking again", shown(&words)));
            self.said = words;
        }
    }

    /// Waits before the next try; false when it is time to give up.
    async fn again(&mut self) -> bool {
        let wait = match (self.served && self.watch, self.until) {
            (true, _) => self.wait,
            (false, Some(until)) => match until.saturating_sub(self.clock.boot()) {
                Duration::ZERO => return false,
                left => self.wait.min(left),
            },
            (false, None) if self.watch => self.wait,
            (false, None) => return false,
        };
        self.clock.sleep(wait).await;
        self.wait = (self.wait * 2).min(LONGEST);
        true
    }

    /// How long one answer may take.
    fn left(&self) -> Duration {
        match self.until.filter(|_| !self.served) {
            Some(until) => until.saturating_sub(self.clock.boot()).max(FIRST),
            None => dial::CALL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C162, C163.
    #[test]
    fn the_header_and_what_is_not_asked_again() {
        let request = request(());
        assert_eq!(
            request.metadata().get("workload.spiffe.io").unwrap(),
            "true"
        );
        for (code, again) in [
            (Code::InvalidArgument, false),
            (Code::Unimplemented, false),
            (Code::PermissionDenied, true),
            (Code::Unavailable, true),
            (Code::Unknown, true),
        ] {
            assert_eq!(may_retry(code), again, "{code:?}");
        }
    }

    #[tokio::test]
    async fn patience() {
        let common = |watch, timeout: Option<u64>| Common {
            spiffe_id: None,
            watch,
            timeout: timeout.map(Duration::from_millis),
        };
        assert!(
            !Patience::new(&common(false, None)).again().await,
            "one refusal is the end"
        );
        assert!(!Patience::new(&common(false, Some(0))).again().await);
        let mut watching = Patience::new(&common(true, Some(0)));
        assert!(
            !watching.again().await,
            "the time for the first answer is over"
        );
        watching.fed();
        assert!(watching.again().await, "goes on once served");
        let mut timed = Patience::new(&common(false, Some(250)));
        assert!(timed.again().await);
        assert!(timed.left() <= Duration::from_millis(250));
        while timed.again().await {}
    }
}
