//! The host that clients of a Unix socket make up, made one that an HTTP/2 server can read.
//!
//! There is no host on a Unix socket, yet HTTP/2 asks for one (`:authority`, RFC 9113 section 8.3.1). gRPC's C core,
//! and with it Python's and C++'s SPIFFE clients, sends the socket's path percent-encoded, Java the bare path. Neither
//! is a host by RFC 3986, and our HTTP/2 server resets each such call before anyone of us sees it. Nobody here reads
//! the host, so each byte that none may have becomes `-` on its way in: lengths stay, nothing is kept back, and what
//! is not a plain `:authority` is not touched. A host that came Huffman-coded, or under a name from the connection's
//! own table, goes on as it is.
//!
//! Must not know whose connection it is, nor what is asked.

/// What a client begins with (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NAME: &[u8; 10] = b":authority";
/// Where HPACK's own table has that name (RFC 7541 appendix A).
const INDEX: u8 = 1;

/// Reads along with one connection, byte for byte, however they were cut.
pub(crate) struct Host {
    frame: Frame,
    block: Block,
}

/// Where in the frames (RFC 9113 sections 4.1, 6.2, 6.10).
#[derive(Clone, Copy)]
enum Frame {
    /// So many bytes of the preface are through.
    Preface(usize),
    Head {
        have: usize,
        head: [u8; 9],
    },
    /// Before the header block: the padding's length, and `priority` bytes.
    Lead {
        padded: bool,
        priority: u8,
        padding: u32,
        left: u32,
    },
    Fragment {
        left: u32,
        padding: u32,
    },
    Skip(u32),
    /// This is no HTTP/2, or it is broken: the server shall see it as it is.
    Off,
}

/// Where in a header block (RFC 7541 section 6).
#[derive(Clone, Copy)]
enum Block {
    Field,
    /// The rest of a number that does not matter; then what follows it.
    Number {
        value: bool,
    },
    Length(Part),
    LengthRest {
        part: Part,
        plain: bool,
        length: u32,
        shift: u32,
    },
    Name {
        at: usize,
        left: u32,
        same: bool,
    },
    Value {
        left: u32,
        host: bool,
    },
}

#[derive(Clone, Copy)]
enum Part {
    Name,
    Value { host: bool },
}

/// A number or a length that no sane peer sends.
struct Broken;

const HEAD: Frame = Frame::Head {
    have: 0,
    head: [0; 9],
};

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            frame: Frame::Preface(0),
            block: Block::Field,
        }
    }

    /// The next bytes of the connection.
    pub(crate) fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes.iter_mut();
        loop {
            self.frame = match self.frame {
                Frame::Off => return,
                // Bodies are long: at once.
                Frame::Skip(left) => {
                    let here = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(left);
                    if let Some(last) = here.checked_sub(1) {
                        rest.nth(last as usize);
                    }
                    let left = left - here;
                    if left > 0 {
                        self.frame = Frame::Skip(left);
                        return;
                    }
                    HEAD
                }
                _ => {
                    let Some(byte) = rest.next() else {
                        return;
                    };
                    self.next(byte).unwrap_or(Frame::Off)
                }
            };
        }
    }

    fn next(&mut self, byte: &mut u8) -> Result<Frame, Broken> {
        Ok(match self.frame {
            Frame::Preface(at) if PREFACE.get(at) != Some(byte) => Frame::Off,
            Frame::Preface(at) if at + 1 == PREFACE.len() => HEAD,
            Frame::Preface(at) => Frame::Preface(at + 1),
            Frame::Head { have, mut head } => {
                if let Some(place) = head.get_mut(have) {
                    *place = *byte;
                }
                if have + 1 < head.len() {
                    Frame::Head {
                        have: have + 1,
                        head,
                    }
                } else {
                    self.opened(head)?
                }
            }
            Frame::Lead {
                padded: true,
                priority,
                left,
                ..
            } => lead(false, priority, u32::from(*byte), less(left)?)?,
            Frame::Lead {
                priority,
                padding,
                left,
                ..
            } => lead(false, priority.saturating_sub(1), padding, less(left)?)?,
            Frame::Fragment { left, padding } => {
                self.block = self.block.next(byte)?;
                fragment(less(left)?, padding)
            }
            // Both were seen to before.
            other @ (Frame::Skip(_) | Frame::Off) => other,
        })
    }

    fn opened(&mut self, head: [u8; 9]) -> Result<Frame, Broken> {
        const HEADERS: u8 = 1;
        const CONTINUATION: u8 = 9;
        const PADDED: u8 = 0x8;
        const PRIORITY: u8 = 0x20;
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        match kind {
            HEADERS => {
                self.block = Block::Field;
                let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
                lead(flags & PADDED != 0, priority, 0, length)
            }
            CONTINUATION => Ok(fragment(length, 0)),
            _ => Ok(skip(length)),
        }
    }
}

fn lead(padded: bool, priority: u8, padding: u32, left: u32) -> Result<Frame, Broken> {
    if padded || priority > 0 {
        return Ok(Frame::Lead {
            padded,
            priority,
            padding,
            left,
        });
    }
    Ok(fragment(left.checked_sub(padding).ok_or(Broken)?, padding))
}

fn fragment(left: u32, padding: u32) -> Frame {
    match left {
        0 => skip(padding),
        left => Frame::Fragment { left, padding },
    }
}

fn skip(left: u32) -> Frame {
    match left {
        0 => HEAD,
        left => Frame::Skip(left),
    }
}

fn less(left: u32) -> Result<u32, Broken> {
    left.checked_sub(1).ok_or(Broken)
}

impl Block {
    fn next(self, byte: &mut u8) -> Result<Self, Broken> {
        Ok(match self {
            Self::Field => Self::field(*byte),
            Self::Number { value } if *byte & 0x80 != 0 => Self::Number { value },
            Self::Number { value: true } => Self::Length(Part::Value { host: false }),
            Self::Number { value: false } => Self::Field,
            Self::Length(part) => {
                let (plain, length) = (*byte & 0x80 == 0, *byte & 0x7f);
                if length == 0x7f {
                    Self::LengthRest {
                        part,
                        plain,
                        length: 0x7f,
                        shift: 0,
                    }
                } else {
                    Self::text(part, plain, u32::from(length))
                }
            }
            Self::LengthRest {
                part,
                plain,
                length,
                shift,
            } => {
                // Three bytes are more than any frame that is taken.
                if shift > 14 {
                    return Err(Broken);
                }
                let length = length + (u32::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    Self::text(part, plain, length)
                } else {
                    Self::LengthRest {
                        part,
                        plain,
                        length,
                        shift: shift + 7,
                    }
                }
            }
            Self::Name { at, left, same } => {
                let same = same && NAME.get(at) == Some(byte);
                match left - 1 {
                    0 => Self::Length(Part::Value { host: same }),
                    left => Self::Name {
                        at: at + 1,
                        left,
                        same,
                    },
                }
            }
            Self::Value { left, host } => {
                if host && !may_stay(*byte) {
                    *byte = b'-';
                }
                match left - 1 {
                    0 => Self::Field,
                    left => Self::Value { left, host },
                }
            }
        })
    }

    fn field(byte: u8) -> Self {
        let literal = |index: u8, most: u8| match index {
            0 => Self::Length(Part::Name),
            index if index == most => Self::Number { value: true },
            index => Self::Length(Part::Value {
                host: index == INDEX,
            }),
        };
        let number = |value: u8, most: u8| {
            if value == most {
                Self::Number { value: false }
            } else {
                Self::Field
            }
        };
        match byte {
            0x80.. => number(byte & 0x7f, 0x7f),
            0x40.. => literal(byte & 0x3f, 0x3f),
            0x20.. => number(byte & 0x1f, 0x1f),
            _ => literal(byte & 0x0f, 0x0f),
        }
    }

    fn text(part: Part, plain: bool, length: u32) -> Self {
        match (part, length) {
            (Part::Name, 0) => Self::Length(Part::Value { host: false }),
            (Part::Name, left) => Self::Name {
                at: 0,
                left,
                same: plain && left as usize == NAME.len(),
            },
            (Part::Value { .. }, 0) => Self::Field,
            (Part::Value { host }, left) => Self::Value {
                left,
                host: host && plain,
            },
        }
    }
}

/// A name and a port have no other bytes.
fn may_stay(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':')
}

#[cfg(test)]
mod tests;
