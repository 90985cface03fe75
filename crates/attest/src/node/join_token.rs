//! `join_token`: whoever has the token is the node. Possession is all that is proven here; that
//! the token exists, has not expired and was not used is the ledger's to say.

use attesta_model::{Evidence, Facts, Once, TokenHash};
use aws_lc_rs::digest;
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{AgentSettings, Built, Collect, NodeAttestor, Proven, ServerSettings, Step, Verify};
use crate::AttestError;

/// Its name.
pub const NAME: &str = "join_token";
/// Its line in the table.
pub const ATTESTOR: NodeAttestor = NodeAttestor {
    name: NAME,
    verify,
    collect,
};
/// Longest token, in bytes. It is the last segment of the node's id, as in SPIRE.
pub const TOKEN_BYTES: usize = 128;

/// A join token of the right shape. A secret until it is used: no `Debug`, zeroed when dropped.
pub struct Token(Zeroizing<String>);

impl Token {
    /// 1 to 128 of `A-Z a-z 0-9 . _ -`, but not `.` or `..`: SPIRE's are UUIDs, and an operator
    /// may choose his own.
    ///
    /// # Errors
    /// `Malformed`, which does not repeat the token.
    pub fn parse(token: &str) -> Result<Self, AttestError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if token.is_empty()
            || token.len() > TOKEN_BYTES
            || !token.bytes().all(plain)
            || matches!(token, "." | "..")
        {
            return Err(AttestError::malformed(
                NAME,
                "a join token is 1 to 128 of A-Z a-z 0-9 . _ -",
            ));
        }
        Ok(Self(Zeroizing::new(token.to_owned())))
    }

    /// By what the token is kept and found.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let mut hash = [0; 32];
        let digest = digest::digest(&digest::SHA256, self.0.as_bytes());
        // INVARIANT: SHA-256 has 32 bytes, so the lengths agree.
        for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        TokenHash(hash)
    }

    /// The node's path below `/spire/agent/join_token/`: the token's text, as in SPIRE.
    #[must_use]
    pub fn suffix(&self) -> &str {
        &self.0
    }
}

fn verify(settings: &mut ServerSettings) -> Built<dyn Verify> {
    Ok(settings
        .join_token
        .then(|| Box::new(JoinTokens) as Box<dyn Verify>))
}

fn collect(settings: &mut AgentSettings) -> Built<dyn Collect> {
    Ok(settings
        .join_token
        .take()
        .map(|token| Box::new(JoinToken(token)) as Box<dyn Collect>))
}

/// The server's half.
struct JoinTokens;

impl Verify for JoinTokens {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin(&self, payload: &[u8], _: Timestamp) -> Result<Step, AttestError> {
        let text = std::str::from_utf8(payload)
            .map_err(|_| AttestError::malformed(NAME, "the payload is no text"))?;
        let token = Token::parse(text)?;
        // SPIRE's has no selectors: an entry names such a node by its id.
        Ok(Step::Done(Proven {
            suffix: token.suffix().to_owned(),
            facts: Facts::default(),
            once: Some(Once::Issued(token.hash())),
            can_reattest: false,
        }))
    }
}

/// The agent's half.
struct JoinToken(Token);

impl Collect for JoinToken {
    fn name(&self) -> &'static str {
        NAME
    }

    fn evidence(&self) -> Result<Evidence, AttestError> {
        Ok(Evidence {
            kind: NAME.to_owned(),
            payload: self.0.suffix().as_bytes().to_vec(),
        })
    }

    fn answer(&self, _: &[u8]) -> Result<Vec<u8>, AttestError> {
        Err(AttestError::malformed(
            NAME,
            "the server asked a question, and a join token has no answers",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_tokens() {
        let long = "x".repeat(TOKEN_BYTES + 1);
        for (token, good) in [
            ("4c9a3b9e-7f0e-4b43-9b8e-0f6b3a4e9a11", true),
            ("my_Token.1", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("a\n", false),
            ("\u{e4}", false),
            (long.as_str(), false),
        ] {
            match Token::parse(token) {
                Ok(token) => assert!(good, "{}", token.suffix()),
                Err(e) => assert!(!good && !e.to_string().contains("my_Token"), "{e}"),
            }
        }
    }

    #[test]
    fn it_is_kept_by_its_sha256() {
        let token = Token::parse("abc").ok().unwrap();
        assert_eq!(
            token.hash().to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
